//! [`Table`]: rows in columns of equal width, as `kubectl` lays them out.

/// Blanks between two columns.
const GAP: usize = 3;

/// A head and rows below it; further rows keep the widths.
#[derive(Debug)]
pub(super) struct Table {
    widths: Vec<usize>,
}

impl Table {
    /// The table as text, and what is needed to add rows later.
    pub(super) fn render(head: &[&str], rows: &[Vec<String>]) -> (Self, String) {
        let mut widths: Vec<usize> = head.iter().map(|cell| width(cell)).collect();
        for row in rows {
            for (found, cell) in widths.iter_mut().zip(row) {
                *found = (*found).max(width(cell));
            }
        }
        let table = Self { widths };
        let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
        let mut text = table.row(&head);
        for row in rows {
            text.push_str(&table.row(row));
        }
        (table, text)
    }

    /// One more row.
    pub(super) fn row(&self, cells: &[String]) -> String {
        let mut line = String::new();
        for (at, cell) in cells.iter().enumerate() {
            line.push_str(cell);
            if at + 1 < cells.len() {
                let room = self.widths.get(at).copied().unwrap_or(0).saturating_sub(width(cell));
                line.extend(std::iter::repeat_n(' ', room + GAP));
            }
        }
        let mut line = line.trim_end().to_owned();
        line.push('\n');
        line
    }
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = [row(["web", "1/1", "Running"]), row(["größer", "0/1", ""])];
        let (table, text) = Table::render(&["NAME", "READY", "STATUS"], &rows);
        assert_eq!(text, "NAME     READY   STATUS\nweb      1/1     Running\ngrößer   0/1\n");
        assert_eq!(table.row(&row(["a", "b", "c"])), "a        b       c\n");
    }
}
