//! What is drawn on: cells, in the colours and the letters that this terminal has.

use ratatui::{
    buffer::Buffer,
    style::{Color, Modifier, Style},
    text::Span,
};

use crate::shown;

/// What the terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    pub colours: bool,
    pub unicode: bool,
}

/// What text is, not what it looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    Plain,
    Bold,
    Dim,
    /// The head of a table.
    Head,
    Selected,
    Warn,
    /// Much of something.
    Hot,
    /// A block of a picture, of so many kinds.
    Block(u8),
}

pub struct Paper<'a> {
    buffer: &'a mut Buffer,
    look: Look,
}

impl<'a> Paper<'a> {
    pub fn new(buffer: &'a mut Buffer, look: Look) -> Self {
        Self { buffer, look }
    }

    pub fn width(&self) -> u16 {
        self.buffer.area.width
    }

    pub fn height(&self) -> u16 {
        self.buffer.area.height
    }

    pub fn unicode(&self) -> bool {
        self.look.unicode
    }

    /// A whole line, cut where it does not fit.
    pub fn line(&mut self, y: u16, text: &str, ink: Ink) {
        let width = self.width();
        self.put(0, y, width, text, ink);
        if matches!(ink, Ink::Head | Ink::Selected) {
            self.fill(0, y, width, ink);
        }
    }

    /// Text in so many columns.
    pub fn put(&mut self, x: u16, y: u16, width: u16, text: &str, ink: Ink) {
        if y >= self.height() || x >= self.width() || width == 0 {
            return;
        }
        let width = width.min(self.width() - x);
        let text = self.shown(text, usize::from(width));
        let style = self.style(ink);
        self.buffer.set_stringn(x, y, text, usize::from(width), style);
    }

    pub fn fill(&mut self, x: u16, y: u16, width: u16, ink: Ink) {
        if y < self.height() && x < self.width() {
            let style = self.style(ink);
            let area = ratatui::layout::Rect::new(x, y, width.min(self.width() - x), 1);
            self.buffer.set_style(area, style);
        }
    }

    /// Text that does nothing, in letters that this terminal has, and with a mark where it is cut.
    fn shown(&self, text: &str, width: usize) -> String {
        let mut text = shown::line(text);
        if columns(&text) > width {
            let mut room = width.saturating_sub(1);
            let end = text.char_indices().find(|(_, c)| {
                let mut bytes = [0; 4];
                match room.checked_sub(columns(c.encode_utf8(&mut bytes))) {
                    Some(left) => {
                        room = left;
                        false
                    }
                    None => true,
                }
            });
            if let Some((end, _)) = end {
                text.truncate(end);
            }
            text.push('…');
        }
        if self.look.unicode {
            return text;
        }
        text.chars().map(plain).collect()
    }

    fn style(&self, ink: Ink) -> Style {
        let style = Style::new();
        let bold = Modifier::BOLD;
        if !self.look.colours {
            return match ink {
                Ink::Plain | Ink::Block(_) => style,
                Ink::Dim => style,
                Ink::Bold | Ink::Warn | Ink::Hot => style.add_modifier(bold),
                Ink::Head => style.add_modifier(bold | Modifier::UNDERLINED),
                Ink::Selected => style.add_modifier(Modifier::REVERSED),
            };
        }
        match ink {
            Ink::Plain => style,
            Ink::Bold => style.add_modifier(bold),
            Ink::Dim => style.fg(Color::DarkGray),
            Ink::Head => style.fg(Color::Black).bg(Color::Green),
            Ink::Selected => style.fg(Color::Black).bg(Color::Cyan),
            Ink::Warn => style.fg(Color::Yellow),
            Ink::Hot => style.fg(Color::LightRed),
            Ink::Block(kind) => {
                let ground = [
                    Color::Yellow,
                    Color::LightYellow,
                    Color::Blue,
                    Color::Cyan,
                    Color::Red,
                    Color::Gray,
                ];
                style.fg(Color::Black).bg(ground[usize::from(kind) % ground.len()])
            }
        }
    }
}

/// How many columns text takes.
fn columns(text: &str) -> usize {
    Span::raw(text).width()
}

/// A letter that every terminal has.
fn plain(c: char) -> char {
    match c {
        '…' => '~',
        '·' => '-',
        '█' => '#',
        '▏' => '|',
        c if c.is_ascii() => c,
        _ => '?',
    }
}
