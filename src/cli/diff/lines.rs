//! [`hunks`]: what differs between two texts, line by line.

/// Lines before and after a difference that are shown as well.
const CONTEXT: usize = 3;
/// Cells of the table that is filled in; what would need more is shown as replaced whole.
const CELLS_MAX: usize = 4_000_000;

/// What became of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// In both.
    Kept(&'a str),
    /// In the old text only.
    Removed(&'a str),
    /// In the new text only.
    Added(&'a str),
}

/// The differences, each with what stands around it; nothing if there are none.
pub(super) fn hunks<'a>(before: &'a str, after: &'a str) -> Vec<Vec<Line<'a>>> {
    let all = compared(before, after);
    let is_near = |at: usize| {
        let from = at.saturating_sub(CONTEXT);
        all.iter().skip(from).take(at - from + CONTEXT + 1).any(|it| !matches!(it, Line::Kept(_)))
    };
    let mut hunks: Vec<Vec<Line>> = Vec::new();
    let mut is_open = false;
    for (at, line) in all.iter().enumerate() {
        let near = is_near(at);
        match hunks.last_mut() {
            Some(hunk) if near && is_open => hunk.push(*line),
            Some(_) | None if near => hunks.push(vec![*line]),
            Some(_) | None => {}
        }
        is_open = near;
    }
    hunks
}

fn compared<'a>(before: &'a str, after: &'a str) -> Vec<Line<'a>> {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let (old_rest, new_rest) = (&old[head..], &new[head..]);
    let tail = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(|(a, b)| a == b).count();
    let (old_rest, tail_lines) = old_rest.split_at(old_rest.len() - tail);
    let new_rest = &new_rest[..new_rest.len() - tail];
    let mut lines: Vec<Line> = old[..head].iter().map(|line| Line::Kept(line)).collect();
    lines.extend(middle(old_rest, new_rest));
    lines.extend(tail_lines.iter().map(|line| Line::Kept(line)));
    lines
}

/// By the longest common subsequence: `length[i][j]` is that of `old[i..]` and `new[j..]`.
fn middle<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<Line<'a>> {
    let width = new.len() + 1;
    if (old.len() + 1).saturating_mul(width) > CELLS_MAX {
        let removed = old.iter().map(|line| Line::Removed(line));
        return removed.chain(new.iter().map(|line| Line::Added(line))).collect();
    }
    let mut length = vec![0_u32; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            length[i * width + j] = if old[i] == new[j] {
                length[(i + 1) * width + j + 1] + 1
            } else {
                length[(i + 1) * width + j].max(length[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines = Vec::new();
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            lines.push(Line::Kept(old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len()
            || (i < old.len() && length[(i + 1) * width + j] >= length[i * width + j + 1])
        {
            lines.push(Line::Removed(old[i]));
            i += 1;
        } else {
            lines.push(Line::Added(new[j]));
            j += 1;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(before: &str, after: &str) -> Vec<String> {
        let line = |line: &Line| match line {
            Line::Kept(text) => format!(" {text}"),
            Line::Removed(text) => format!("-{text}"),
            Line::Added(text) => format!("+{text}"),
        };
        let hunk = |hunk: &Vec<Line>| hunk.iter().map(line).collect::<Vec<_>>().join("");
        hunks(before, after).iter().map(hunk).collect()
    }

    #[test]
    fn what_differs_is_shown_with_what_stands_around_it() {
        let before = "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\nk\nl\n";
        assert_eq!(shown(before, before), Vec::<String>::new());
        let after = before.replace("e\n", "E\n");
        assert_eq!(shown(before, &after), [" b c d-e+E f g h"]);
        let after = format!("0\n{before}").replace("l\n", "");
        assert_eq!(shown(before, &after), ["+0 a b c", " i j k-l"]);
        assert_eq!(shown("", "a\nb"), ["+a+b"]);
    }

    #[test]
    fn what_is_too_much_to_compare_is_replaced_whole() {
        let many = |from: usize| (from..from + 3000).map(|n| format!("{n}\n")).collect::<String>();
        let lines = compared(&many(0), &many(1)).len();
        assert_eq!(lines, 6000);
    }

    proptest! {
        #[test]
        fn each_text_can_be_read_out_of_the_comparison(a in "[ab\n]{0,30}", b in "[ab\n]{0,30}") {
            let all = compared(&a, &b);
            let old: Vec<&str> = all.iter().filter_map(|line| match line {
                Line::Kept(text) | Line::Removed(text) => Some(*text),
                Line::Added(_) => None,
            }).collect();
            let new: Vec<&str> = all.iter().filter_map(|line| match line {
                Line::Kept(text) | Line::Added(text) => Some(*text),
                Line::Removed(_) => None,
            }).collect();
            prop_assert_eq!(old, a.lines().collect::<Vec<_>>());
            prop_assert_eq!(new, b.lines().collect::<Vec<_>>());
        }
    }
}
