//! What of a run is looked at, and how keys change it.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// A page of what is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Panel {
    #[default]
    Overview,
    Losses,
    Rates,
    Evaluations,
    Log,
}

impl Panel {
    /// All, in the order of their tabs.
    pub const ALL: [Self; 5] =
        [Self::Overview, Self::Losses, Self::Rates, Self::Evaluations, Self::Log];

    /// What it is called on the screen.
    pub fn title(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Losses => "Losses",
            Self::Rates => "Rates",
            Self::Evaluations => "Evaluations",
            Self::Log => "Log",
        }
    }

    fn moved(self, by: usize) -> Self {
        Self::ALL[(self as usize + by) % Self::ALL.len()]
    }
}

/// What a user chose to see.
#[derive(Debug, Clone, Default)]
pub struct View {
    pub panel: Panel,
    /// Which of what is trained, of as many as there are; a number beyond counts round.
    pub trainee: usize,
    /// Lines scrolled down.
    pub scrolled: u16,
    pub shows_help: bool,
}

/// What keys do, for people.
pub const KEYS: [(&str, &str); 6] = [
    ("Tab, Shift-Tab, 1 to 5", "another panel"),
    ("left, right", "another student"),
    ("up, down, PgUp, PgDn", "scroll"),
    ("Home", "back to the top"),
    ("?", "this help"),
    ("q, Esc, Ctrl-C", "leave; the run goes on"),
];

impl View {
    /// Takes in a key, of a run with so many `trainees`. Whether the user wants to stay.
    pub fn takes(&mut self, key: KeyEvent, trainees: usize) -> bool {
        if key.kind == KeyEventKind::Release {
            return true;
        }
        let trainees = trainees.max(1);
        let panels = Panel::ALL.len();
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
            KeyCode::Char('q') => return false,
            KeyCode::Esc if !self.shows_help => return false,
            KeyCode::Esc => self.shows_help = false,
            KeyCode::Char('?') => self.shows_help = !self.shows_help,
            KeyCode::Tab => self.go_to(self.panel.moved(1)),
            KeyCode::BackTab => self.go_to(self.panel.moved(panels - 1)),
            KeyCode::Char(digit @ '1'..='5') => {
                self.go_to(Panel::ALL[digit as usize - '1' as usize]);
            }
            KeyCode::Right => self.trainee = (self.trainee + 1) % trainees,
            KeyCode::Left => self.trainee = (self.trainee + trainees - 1) % trainees,
            KeyCode::Down => self.scrolled = self.scrolled.saturating_add(1),
            KeyCode::Up => self.scrolled = self.scrolled.saturating_sub(1),
            KeyCode::PageDown => self.scrolled = self.scrolled.saturating_add(10),
            KeyCode::PageUp => self.scrolled = self.scrolled.saturating_sub(10),
            KeyCode::Home => self.scrolled = 0,
            _ => {}
        }
        true
    }

    fn go_to(&mut self, panel: Panel) {
        self.panel = panel;
        self.scrolled = 0;
        self.shows_help = false;
    }
}
