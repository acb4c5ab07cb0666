//! [`Table`]: rows in columns of equal width, as `kubectl` lays them out.

use super::output;
use super::screen::{Screen, Tone};

/// Blanks between two columns.
const GAP: usize = 3;

/// What stands in one place of a table: one line that can't drive a terminal, whatever it was made
/// of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A text that means something.
    pub(super) fn toned(tone: Tone, text: &str) -> Self {
        Self { text: output::clean_line(text), tone }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::toned(Tone::Plain, text)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

/// A head and rows below it; further rows keep the widths.
#[derive(Debug)]
pub(super) struct Table {
    widths: Vec<usize>,
    colors: bool,
    /// Longest line, if there is one.
    columns: Option<usize>,
}

impl Table {
    /// The table as text, and what is needed to add rows later.
    pub(super) fn render(screen: Screen, head: &[&str], rows: &[Vec<Cell>]) -> (Self, String) {
        Self::render_within(screen, None, head, rows)
    }

    /// The same with lines that are not longer than `columns`.
    pub(super) fn render_within(
        screen: Screen,
        columns: Option<usize>,
        head: &[&str],
        rows: &[Vec<Cell>],
    ) -> (Self, String) {
        let head: Vec<Cell> = head.iter().map(|cell| Cell::toned(Tone::Strong, cell)).collect();
        let mut widths: Vec<usize> = head.iter().map(Cell::width).collect();
        for row in rows {
            for (found, cell) in widths.iter_mut().zip(row) {
                *found = (*found).max(cell.width());
            }
        }
        let table = Self { widths, colors: screen.colors, columns };
        let mut text = table.row(&head);
        for row in rows {
            text.push_str(&table.row(row));
        }
        (table, text)
    }

    /// The same as [`Table::render`], with columns of at least these widths, for rows that are still
    /// to come.
    pub(super) fn render_wide(
        screen: Screen,
        least: &[usize],
        head: &[&str],
        rows: &[Vec<Cell>],
    ) -> (Self, String) {
        let (mut table, _) = Self::render(screen, head, rows);
        for (found, least) in table.widths.iter_mut().zip(least) {
            *found = (*found).max(*least);
        }
        let head: Vec<Cell> = head.iter().map(|cell| Cell::toned(Tone::Strong, cell)).collect();
        let text = std::iter::once(&head).chain(rows).map(|row| table.row(row)).collect();
        (table, text)
    }

    /// One more row.
    pub(super) fn row(&self, cells: &[Cell]) -> String {
        let mut line = String::new();
        let mut room = self.columns.unwrap_or(usize::MAX);
        // What follows it has no text.
        let last = cells.iter().rposition(|cell| !cell.text.is_empty()).unwrap_or(0);
        for (at, cell) in cells.iter().enumerate().take(last + 1) {
            let text: String = cell.text.chars().take(room).collect();
            let width = cell.width();
            room = room.saturating_sub(width);
            line.push_str(&cell.tone.paint(&text, self.colors));
            if at < last && room > 0 {
                let blanks = self.widths.get(at).copied().unwrap_or(0).saturating_sub(width) + GAP;
                line.extend(std::iter::repeat_n(' ', blanks.min(room)));
                room = room.saturating_sub(blanks);
            }
        }
        line.push('\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<const N: usize>(cells: [&str; N]) -> Vec<Cell> {
        cells.map(Cell::from).to_vec()
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [row(["web", "1/1", "Running"]), row(["größer", "0/1", ""])];
        let (table, text) = Table::render(Screen::default(), &["NAME", "READY", "STATUS"], &rows);
        assert_eq!(text, "NAME     READY   STATUS\nweb      1/1     Running\ngrößer   0/1\n");
        assert_eq!(table.row(&row(["a", "b", "c"])), "a        b       c\n");
    }

    #[test]
    fn columns_can_be_wider_for_what_is_still_to_come() {
        let (table, text) = Table::render_wide(Screen::default(), &[6], &["A", "B"], &[]);
        assert_eq!(text, "A        B\n");
        assert_eq!(table.row(&row(["longer", "b"])), "longer   b\n");
    }

    #[test]
    fn colours_do_not_count_as_width() {
        let screen = Screen { colors: true, ..Screen::default() };
        let rows = [vec![Cell::toned(Tone::Bad, "Error"), "x".into()]];
        let (_, text) = Table::render(screen, &["A", "B"], &rows);
        assert_eq!(
            text,
            "\u{1b}[1mA\u{1b}[0m       \u{1b}[1mB\u{1b}[0m\n\u{1b}[31mError\u{1b}[0m   x\n"
        );
    }

    #[test]
    fn lines_can_be_held_within_a_terminal() {
        let rows = [row(["one", "two-and-more"])];
        let (_, text) = Table::render_within(Screen::default(), Some(8), &["A", "B"], &rows);
        assert_eq!(text, "A     B\none   tw\n");
        let (_, text) = Table::render_within(Screen::default(), Some(2), &["A", "B"], &rows);
        assert_eq!(text, "A \non\n");
    }

    #[test]
    fn a_cell_is_one_line_and_cannot_drive_a_terminal() {
        let (_, text) =
            Table::render(Screen::default(), &["A"], &[row(["x\ny\u{1b}[2J\u{202e}\u{7}"])]);
        assert_eq!(text, "A\nx y\\u{1b}[2J\\u{202e}\\u{7}\n");
    }
}
