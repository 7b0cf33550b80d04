//! The terminal: one line per object with a bar and its phase, a table at the end.

use std::{
    cell::RefCell, collections::BTreeMap, fmt::Write as _, io::IsTerminal, net::SocketAddr,
    time::Duration,
};

use demo::{Line, Mark, Stage, View};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What is shown while things happen.
pub(crate) struct Screen {
    bars: MultiProgress,
    lines: RefCell<BTreeMap<String, (ProgressBar, Line)>>,
    plain: bool,
}

impl Screen {
    /// Bars on a terminal, a line per change elsewhere.
    pub(crate) fn new(once: bool) -> Self {
        let plain = once || !std::io::stdout().is_terminal();
        let target = if plain {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stdout_with_hz(10)
        };
        Self {
            bars: MultiProgress::with_draw_target(target),
            lines: RefCell::default(),
            plain,
        }
    }

    /// Shows the objects as they are now.
    pub(crate) fn draw(&self, now: &[Line]) {
        let mut lines = self.lines.borrow_mut();
        for line in now {
            let (bar, shown) = lines.entry(line.object.clone()).or_insert_with(|| {
                let bar = self.bars.add(ProgressBar::new(100).with_style(style()));
                bar.set_prefix(line.object.clone());
                let nothing = Line {
                    object: String::new(),
                    percent: 0,
                    phase: String::new(),
                    fault: None,
                };
                (bar, nothing)
            });
            if shown == line {
                continue;
            }
            bar.set_position(u64::from(line.percent));
            let fault = line
                .fault
                .as_ref()
                .map(|f| format!("  ! {f}"))
                .unwrap_or_default();
            bar.set_message(format!("{}{fault}", line.phase));
            if self.plain
                && (shown.phase != line.phase || shown.fault != line.fault)
                && !is_count(&line.phase)
            {
                println!(
                    "{:<24} {:>3} %  {}{fault}",
                    line.object, line.percent, line.phase
                );
            }
            *shown = line.clone();
        }
    }

    /// Leaves the last state on the terminal.
    pub(crate) fn finish(&self) {
        for (bar, _) in self.lines.borrow().values() {
            bar.abandon();
        }
    }
}

/// Counting bytes is for bars.
fn is_count(phase: &str) -> bool {
    phase.starts_with("downloading")
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix:24} [{bar:24.green}] {percent:>3} %  {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

/// The table at the end.
pub(crate) fn summary(
    stage: &Stage,
    view: &View,
    phases: &[(Mark, u128)],
    page: &str,
    guest: SocketAddr,
    closed: u16,
) -> String {
    let mut text = String::from("\n");
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<12} {value}");
    };
    row("device", &view.device().unwrap_or_default());
    row("ports", &view.ports().join(", "));
    for app in view.apps.values() {
        let vifs: Vec<String> = app
            .vifs
            .iter()
            .map(|v| {
                format!(
                    "{} {}",
                    v.name,
                    v.ip.map(|ip| ip.to_string()).unwrap_or_default()
                )
            })
            .collect();
        row("app", &format!("{} ({})", app.display_name, app.id));
        row("interfaces", &vifs.join(", "));
    }
    row(
        "from outside",
        &format!("http://{guest}/ answers, port {closed} is closed"),
    );
    let first: Vec<&str> = page
        .lines()
        .filter(|l| !l.starts_with('<') && !l.is_empty())
        .take(3)
        .collect();
    row("its page", &first.join(" | "));
    let total: u128 = phases.iter().map(|(_, ms)| ms).sum();
    let _ = writeln!(text, "\n  phase           took");
    for (mark, ms) in phases {
        let name = serde_json::to_value(mark)
            .ok()
            .and_then(|v| v.as_str().map(str::to_owned))
            .unwrap_or_default();
        let _ = writeln!(text, "  {name:<12} {}", seconds(*ms));
    }
    let _ = writeln!(text, "  {:<12} {}", "together", seconds(total));
    let root = stage.device().root().display().to_string();
    let _ = writeln!(
        text,
        "\n  Look further, in another terminal:\n    target/debug/eve --root {root} status\n    target/debug/eve --root {root} why app web\n    ls {root}/run/*/"
    );
    text
}

fn seconds(ms: u128) -> String {
    format!(
        "{:>8.2} s",
        Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX)).as_secs_f64()
    )
}
