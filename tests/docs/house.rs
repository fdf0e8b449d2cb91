//! Draws docs/house.svg, the picture of the layers, from the table of layers in docs/architecture.md.

use std::fmt::Write as _;

const WIDTH: usize = 960;
const COLUMNS: usize = 12;
const ROW: usize = 38;
const GAP: usize = 6;
/// Width of a letter of the 12 px text, rounded up.
const LETTER: usize = 7;
const LINE: usize = 15;

/// Position of a layer's box, in columns and rows of the grid.
struct Place {
    layer: &'static str,
    column: usize,
    columns: usize,
    row: usize,
    rows: usize,
    fill: &'static str,
}

const fn place(
    layer: &'static str,
    (column, columns): (usize, usize),
    (row, rows): (usize, usize),
    fill: &'static str,
) -> Place {
    Place { layer, column, columns, row, rows, fill }
}

const FACE: &str = "#dbe7f6";
const ENGINE: &str = "#e3f0dc";
const GROUND: &str = "#f3ead7";

const PLACES: &[Place] = &[
    place("cli", (0, 12), (1, 1), FACE),
    place("daemon", (0, 12), (2, 1), FACE),
    place("nbd", (0, 5), (3, 1), FACE),
    place("image", (5, 3), (3, 1), FACE),
    place("fs", (8, 4), (3, 4), ENGINE),
    place("volume", (0, 8), (4, 1), ENGINE),
    place("map", (0, 8), (5, 1), ENGINE),
    place("log", (0, 8), (6, 1), ENGINE),
    place("journal", (0, 3), (7, 3), ENGINE),
    place("cache", (3, 9), (7, 1), ENGINE),
    place("pool", (3, 5), (8, 2), ENGINE),
    place("frame", (0, 5), (10, 1), GROUND),
    place("keys", (5, 3), (10, 1), GROUND),
    place("store", (0, 12), (11, 1), GROUND),
    place("base", (0, 12), (12, 1), GROUND),
];

/// Boxes above and below the layers: text, column, columns, row.
const OUTSIDE: &[(&str, usize, usize, usize)] = &[
    ("windlass …", 0, 2, 0),
    ("QEMU · nbdcopy · nbd-client", 2, 6, 0),
    ("programs · mount(8)", 8, 4, 0),
    ("one file = one object", 8, 4, 9),
    ("S3 buckets of any provider · folders", 0, 12, 13),
];

/// Reads the rows of the table of layers: name, and what the layer owns.
pub fn layers(page: &str) -> Vec<(String, String)> {
    page.lines()
        .skip_while(|l| !l.starts_with("| layer |"))
        .skip(2)
        .take_while(|l| l.starts_with('|'))
        .map(|l| {
            let mut cells = l.trim_matches('|').split('|').map(str::trim);
            let name = cells.next().unwrap_or_default().trim_matches('`').to_owned();
            (name, cells.next().unwrap_or_default().replace('`', ""))
        })
        .collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Puts words into lines of at most `letters`.
fn wrapped(text: &str, letters: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= letters => {
                *line += " ";
                *line += word;
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Draws the picture. Panics when the table and the boxes differ, or when a text doesn't fit its box.
pub fn drawn(layers: &[(String, String)]) -> String {
    let mut names: Vec<_> = layers.iter().map(|(name, _)| name.as_str()).collect();
    let mut boxes: Vec<_> = PLACES.iter().map(|p| p.layer).collect();
    names.sort_unstable();
    boxes.sort_unstable();
    assert_eq!(names, boxes, "the layers of docs/architecture.md and the boxes of tests/docs/house.rs");
    let height = 14 * ROW + GAP;
    let column = |n: usize| n * (WIDTH - GAP) / COLUMNS + GAP;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\" role=\"img\">\n\
         <title>The layers of Windlass: each uses only layers below it</title>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    for (name, owns) in layers {
        let p = PLACES.iter().find(|p| p.layer == name).expect("compared above");
        let (x, y) = (column(p.column), p.row * ROW + GAP);
        let (w, h) = (column(p.column + p.columns) - x - GAP, p.rows * ROW - GAP);
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" rx=\"4\" fill=\"{}\" stroke=\"#8a8a8a\"/>",
            p.fill
        );
        let _ = writeln!(out, "<text x=\"{}\" y=\"{}\" font-weight=\"bold\">{name}</text>", x + 8, y + 20);
        // In a low box the text stands beside the name, in a high one below it.
        let (left, top) = if p.rows == 1 { (68, 20) } else { (8, 36) };
        let lines = wrapped(owns, (w - left - 8) / LETTER);
        assert!(top + (lines.len() - 1) * LINE < h, "{name}: what it owns doesn't fit its box: {lines:?}");
        for (i, line) in lines.iter().enumerate() {
            let _ = writeln!(
                out,
                "<text x=\"{}\" y=\"{}\">{}</text>",
                x + left,
                y + top + i * LINE,
                escaped(line)
            );
        }
    }
    for (text, from, columns, row) in OUTSIDE {
        let middle = (column(*from) + column(from + columns)) / 2;
        let _ = writeln!(
            out,
            "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\" font-style=\"italic\" fill=\"#444444\">{}</text>",
            row * ROW + 26,
            escaped(text)
        );
    }
    out + "</svg>\n"
}
