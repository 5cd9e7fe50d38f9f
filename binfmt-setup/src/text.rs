//! Rows of words as a table for people.

/// Aligned columns, two spaces apart; the last one is not padded. With `color`, a cell that is `yes` or `no` is green
/// or red.
pub fn columns<const N: usize>(rows: &[[String; N]], color: bool) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line += &match (color, cell.as_str()) {
                (true, "yes") => format!("\x1b[32m{cell:width$}\x1b[0m  "),
                (true, "no") => format!("\x1b[31m{cell:width$}\x1b[0m  "),
                _ => format!("{cell:width$}  "),
            };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows =
            [["A", "B"].map(String::from), ["long", "no"].map(String::from), ["ü", ""].map(String::from)];
        assert_eq!(columns(&rows, false), "A     B\nlong  no\nü\n");
        assert_eq!(columns(&rows, true), "A     B\nlong  \x1b[31mno\x1b[0m\nü\n");
    }
}
