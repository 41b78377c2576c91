//! Text in lines that a page has room for. Measures each character once, however long the text is.

use ratatui::text::{Line, Span, Text};

/// What stands in the place of a tab.
const TAB: &str = "    ";
/// What a text ends in that goes on.
const CUT: &str = " ... (cut)";

/// The lines of a text, none wider than the page: a long payload is shown to its last character.
pub(super) fn wrapped(text: Text<'static>, width: usize) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for line in text.lines {
        let (style, whole) = (text.style.patch(line.style), line.to_string());
        let (mut part, mut wide) = (String::new(), 0);
        for c in whole.chars() {
            // A page shows no tab.
            let mut utf8 = [0; 4];
            let piece = if c == '\t' { TAB } else { c.encode_utf8(&mut utf8) };
            let more = if c.is_ascii() { piece.len() } else { Span::raw(piece).width() };
            if wide + more > width.max(TAB.len()) {
                lines.push(Line::styled(std::mem::take(&mut part), style));
                wide = 0;
            }
            part.push_str(piece);
            wide += more;
        }
        lines.push(Line::styled(part, style));
    }
    lines
}

/// As many of these lines as there is room for; the last one says where there are more.
pub(super) fn cut(mut lines: Vec<Line<'static>>, room: usize) -> Vec<Line<'static>> {
    if lines.len() > room {
        lines.truncate(room);
        if let Some(last) = lines.last_mut() {
            let mut text = last.to_string();
            while Span::raw(&text).width() + CUT.len() > last.width() && text.pop().is_some() {}
            *last = Line::styled(text + CUT, last.style);
        }
    }
    lines
}
