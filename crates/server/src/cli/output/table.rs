//! Columns.

use std::fmt;

use super::Paint;

/// What a cell's content means for its reader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tone {
    /// Nothing special.
    Normal,
    /// All is well.
    Good,
    /// It works, and is not whole.
    Warn,
    /// It does not work.
    Bad,
    /// Not so important.
    Dim,
}

impl Tone {
    /// `text` in this tone.
    #[must_use]
    pub fn paint(self, text: &str, paint: Paint) -> String {
        let code = match (self, paint) {
            (Self::Normal, _) | (_, Paint::Plain) => return text.to_owned(),
            (Self::Good, Paint::Color) => "32",
            (Self::Warn, Paint::Color) => "33",
            (Self::Bad, Paint::Color) => "31",
            (Self::Dim, Paint::Color) => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// One cell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell in a tone.
    #[must_use]
    pub fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self {
            text: text.into(),
            tone,
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(text, Tone::Normal)
    }
}

/// On which side a column's content stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Align {
    Left,
    Right,
}

/// Rows of cells under one heading.
#[derive(Clone, Debug)]
pub struct Table {
    indent: usize,
    heads: Vec<(String, Align)>,
    rows: Vec<Row>,
    paint: Paint,
}

#[derive(Clone, Debug)]
enum Row {
    Cells(Vec<Cell>),
    Line(String),
}

impl Table {
    /// A table with these headings, indented by that many columns. A heading that begins with `>`
    /// is of numbers, which stand on the right.
    #[must_use]
    pub fn new(indent: usize, heads: &[&str], paint: Paint) -> Self {
        let heads = heads
            .iter()
            .map(|head| match head.strip_prefix('>') {
                Some(head) => (head.to_owned(), Align::Right),
                None => ((*head).to_owned(), Align::Left),
            })
            .collect();
        Self {
            indent,
            heads,
            rows: Vec::new(),
            paint,
        }
    }

    /// Adds a row; cells beyond the headings are left out.
    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(Row::Cells(cells));
    }

    /// Adds a line of text below the last row, indented a little more than the table.
    pub fn line(&mut self, text: impl Into<String>) {
        self.rows.push(Row::Line(text.into()));
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.heads.iter().map(|(head, _)| width(head)).collect();
        for row in &self.rows {
            if let Row::Cells(cells) = row {
                for (column, cell) in widths.iter_mut().zip(cells) {
                    *column = (*column).max(width(&cell.text));
                }
            }
        }
        widths
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        let heads: Vec<Cell> = self
            .heads
            .iter()
            .map(|(head, _)| Cell::toned(head.clone(), Tone::Dim))
            .collect();
        let indent = " ".repeat(self.indent);
        let put = |f: &mut fmt::Formatter<'_>, cells: &[Cell]| {
            f.write_str(&indent)?;
            let last = cells.len().min(widths.len()).saturating_sub(1);
            for (at, (cell, (width_wanted, (_, align)))) in
                cells.iter().zip(widths.iter().zip(&self.heads)).enumerate()
            {
                let gap = " ".repeat(width_wanted - width(&cell.text));
                let text = cell.tone.paint(&cell.text, self.paint);
                match align {
                    Align::Left if at == last => write!(f, "{text}")?,
                    Align::Left => write!(f, "{text}{gap}  ")?,
                    Align::Right if at == last => write!(f, "{gap}{text}")?,
                    Align::Right => write!(f, "{gap}{text}  ")?,
                }
            }
            writeln!(f)
        };
        put(f, &heads)?;
        for row in &self.rows {
            match row {
                Row::Cells(cells) => put(f, cells)?,
                Row::Line(text) => writeln!(f, "{indent}  {text}")?,
            }
        }
        Ok(())
    }
}
