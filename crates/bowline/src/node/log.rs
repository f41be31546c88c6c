//! The node's own log, on standard error.

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Config, LogFormat};

/// Begins to log as configured. What is below a warning is taken from the platform's own crates only:
/// the compiler, say, tells far too much.
pub fn begin(config: &Config) {
    let level = config.log_level;
    let others = level.min(Level::WARN);
    let filter = Targets::new()
        .with_default(others)
        .with_target("bowline", LevelFilter::from_level(level));
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let layer = match config.log_format {
        LogFormat::Text => layer
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    let begun = tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init();
    if begun.is_err() {
        eprintln!("note: another subscriber takes the log already");
    }
}
