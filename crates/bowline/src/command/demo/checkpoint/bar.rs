//! A bar that never goes back: redrawn in place on a terminal, a line for each tenth elsewhere.

use std::io::{IsTerminal as _, Write as _};

const CELLS: u32 = 40;
/// Where there is no terminal, a line for each of so many per mille.
const LINE_EVERY: u32 = 100;

pub struct Bar {
    is_terminal: bool,
    /// The furthest that was ever shown, in per mille.
    shown: u32,
    said: u32,
}

impl Bar {
    pub fn new() -> Self {
        Self {
            is_terminal: std::io::stderr().is_terminal(),
            shown: 0,
            said: 0,
        }
    }

    /// Shows how far it is: what is computed a second time does not move the bar.
    pub fn show(&mut self, part: u32, place: &str) {
        self.shown = self.shown.max(part.min(1_000));
        if self.is_terminal {
            let mut out = std::io::stderr().lock();
            let _ = write!(out, "\r\x1b[2K{} {place}", self.drawn());
            let _ = out.flush();
        } else if self.shown >= self.said + LINE_EVERY {
            self.said = self.shown / LINE_EVERY * LINE_EVERY;
            eprintln!("{} {place}", self.drawn());
        }
    }

    /// Says something between two states of the bar.
    pub fn say(&self, text: &str) {
        let clear = if self.is_terminal { "\r\x1b[2K" } else { "" };
        eprintln!("{clear}{text}");
    }

    fn drawn(&self) -> String {
        let filled = CELLS * self.shown / 1_000;
        let cells: String = (0..CELLS).map(|cell| if cell < filled { '█' } else { '░' }).collect();
        format!("{cells} {:3} %", self.shown / 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_never_goes_back() {
        let mut bar = Bar {
            is_terminal: false,
            shown: 0,
            said: 0,
        };
        for (part, shown) in [
            (100, " 10 %"),
            (550, " 55 %"),
            (430, " 55 %"),
            (551, " 55 %"),
            (2_000, "100 %"),
        ] {
            bar.show(part, "");
            assert!(bar.drawn().ends_with(shown), "{}", bar.drawn());
        }
    }
}
