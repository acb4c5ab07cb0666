//! "Did you mean": the known name nearest to one that is not known.

/// Longest name that is compared; nobody mistypes more, and the work stays bounded.
const NAME_LEN_MAX: usize = 64;

/// The nearest of the candidates, if it is near enough to be what was meant.
pub(crate) fn closest<'a>(
    found: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let found = letters(found)?;
    let near = |name: &'a str| {
        let distance = distance(&found, &letters(name)?);
        // A third of the name may be wrong.
        (distance <= (found.len() / 3).clamp(1, 3)).then_some((distance, name))
    };
    candidates.into_iter().filter_map(near).min_by_key(|(distance, _)| *distance).map(|(_, n)| n)
}

fn letters(name: &str) -> Option<Vec<char>> {
    (name.len() <= NAME_LEN_MAX).then(|| name.to_lowercase().chars().collect())
}

/// How many letters must be put in, left out, replaced or swapped with their neighbour (optimal
/// string alignment distance).
fn distance(a: &[char], b: &[char]) -> usize {
    let width = b.len() + 1;
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..width).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; width];
        for j in 1..width {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if swapped {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_strangers_are_not() {
        let names = ["containers", "initContainers", "volumes", "hostPID", "hostIPC"];
        for (found, meant) in [
            ("container", Some("containers")),
            ("contianers", Some("containers")),
            ("Volumes", Some("volumes")),
            ("hostpid", Some("hostPID")),
            ("replicas", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(closest(found, names), meant, "{found}");
        }
        assert_eq!(closest(&"v".repeat(1 << 20), names), None);
    }
}
