//! Log lines on standard error: for people, or one JSON object a line.

use std::env;
use std::fmt;
use std::path::PathBuf;

use anyhow::{Result, anyhow};
use clap::ValueEnum;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{ChronoLocal, FormatTime};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use crate::config::ConfigError;
use crate::dist::environment;
use crate::ui::screen;

/// What is logged, and how; every command takes these.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct LogArgs {
    /// Least important messages to show [default: what RUST_LOG says, or info; of many processes
    /// those after rank 0 warn]
    #[arg(long, global = true, value_enum, value_name = "LEVEL", help_heading = "Logging")]
    pub log_level: Option<LogLevel>,
    /// Lines for people, or one JSON object a line (which also turns the progress bars off)
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value_t,
        help_heading = "Logging"
    )]
    pub log_format: LogFormat,
}

/// Importance of a message, the most important first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Sends log messages of this process to standard error from here on. Of many processes only the
/// first draws bars.
///
/// # Errors
/// `RUST_LOG` is needed and cannot be understood, or logging was started before.
pub fn start(args: &LogArgs) -> Result<()> {
    let follows = follows_another();
    if follows {
        screen::hide();
    }
    let no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(args.log_level, follows)?)
        // The phases of a run, which are of level debug: a line at the end of each.
        .with_span_events(FmtSpan::CLOSE)
        .with_ansi(screen::is_drawn() && !no_color)
        .with_writer(|| screen::AboveBars);
    match args.log_format {
        LogFormat::Text => builder.event_format(TextLine).try_init(),
        LogFormat::Json => {
            screen::hide();
            builder.json().flatten_event(true).with_current_span(true).try_init()
        }
    }
    .map_err(|error| anyhow!("cannot start logging: {error}"))
}

/// Whether this is a rank after rank 0, which logs for all. What is wrong with a process's rank is
/// reported where the rank is needed.
fn follows_another() -> bool {
    matches!(environment::of_this_process(), Ok(Some(place)) if place.rank > 0)
}

/// The level that was asked for; without one `RUST_LOG`, and without that `info`, or `warn` in a
/// process that `follows` another. A level is meant for this program: of the libraries below it
/// only warnings and errors are shown.
fn filter(level: Option<LogLevel>, follows: bool) -> Result<EnvFilter, ConfigError> {
    let level = match (level, env::var(EnvFilter::DEFAULT_ENV)) {
        (None, Ok(directives)) if !directives.is_empty() => {
            return EnvFilter::try_new(&directives).map_err(|error| ConfigError {
                file: PathBuf::new(),
                key: EnvFilter::DEFAULT_ENV.into(),
                message: format!(
                    "found `{directives}`, expected levels as in `distill=debug`: {error}"
                ),
            });
        }
        (None, _) if follows => LogLevel::Warn,
        (level, _) => level.unwrap_or(LogLevel::Info),
    };
    Ok(EnvFilter::new(match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "warn,distill=info",
        LogLevel::Debug => "warn,distill=debug",
        LogLevel::Trace => "warn,distill=trace",
    }))
}

/// Time of day, the level unless it is `info`, the message, its fields. At the end of a span: its path
/// from the outermost on, and how long it took.
struct TextLine;

impl<S, N> FormatEvent<S, N> for TextLine
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        ChronoLocal::new("%H:%M:%S".into()).format_time(&mut line)?;
        let (name, colour) = match *event.metadata().level() {
            Level::ERROR => (" error:", "\x1b[1;31m"),
            Level::WARN => (" warning:", "\x1b[1;33m"),
            Level::INFO => ("", ""),
            Level::DEBUG => (" debug:", "\x1b[2m"),
            Level::TRACE => (" trace:", "\x1b[2m"),
        };
        if line.has_ansi_escapes() {
            write!(line, "{colour}{name}\x1b[0m ")?;
        } else {
            write!(line, "{name} ")?;
        }
        if event.metadata().is_span() {
            write_phase(context, line.by_ref())?;
        }
        context.field_format().format_fields(line.by_ref(), event)?;
        writeln!(line)
    }
}

/// The spans around an event, the outermost first: `train:step{step=3}:forward{trainee="small"} `.
fn write_phase<S, N>(context: &FmtContext<'_, S, N>, mut line: Writer<'_>) -> fmt::Result
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    let Some(scope) = context.event_scope() else { return Ok(()) };
    for (depth, span) in scope.from_root().enumerate() {
        write!(line, "{}{}", if depth > 0 { ":" } else { "" }, span.name())?;
        let extensions = span.extensions();
        if let Some(fields) = extensions.get::<FormattedFields<N>>()
            && !fields.is_empty()
        {
            write!(line, "{{{fields}}}")?;
        }
    }
    write!(line, " ")
}
