//! `cargo xtask demo`: the gate before your eyes, in real commands with their real output. Every step is checked, not
//! only shown: the first that does not do what it says ends the demo with an error. Touches nothing but what carries
//! its own name, and takes that away again.

mod acts;
mod leftovers;
mod screen;
mod stage;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use xshell::cmd;

use crate::build::Build;
use crate::{place, setup};
use screen::Screen;
use stage::Stage;

/// What the demo is asked to do.
#[derive(clap::Args, Debug)]
pub(crate) struct Demo {
    /// Leave it running at the end, to play with, until Enter or Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// No colours, also on a terminal.
    #[arg(long)]
    no_color: bool,
    /// Only remove what earlier demos left behind (after a power cut, say).
    #[arg(long, conflicts_with = "keep")]
    undo: bool,
    /// This `tidegate`, instead of building one.
    #[arg(long, hide = true, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Wait until the demo of this name is over, and remove what it left.
    #[arg(long, hide = true, value_name = "NAME")]
    watch: Option<String>,
}

const INTRO: &str = "\
What happens now:
  - It builds Tidegate: minutes the first time (it says what it brings for that), seconds later.
  - As root, it sets up two hosts of its own, as network namespaces with a cable between them: `tidegate-demo-PID`
    (an AI agent's service, the people who use it, the gate) and `tidegate-demo-PID-far` (a CRM, a laptop, an attacker).
  - On the first one's own cgroup it loads Tidegate's eBPF programs: connect, sendmsg, bind, getsockopt, getpeername,
    sock_ops and egress hooks, and sk_lookup in that namespace. No process outside that cgroup ever meets them.
  - It takes about half a minute. Each line after a prompt is a real command, and what follows is what it printed. The
    prompt says who types: ada and bo are people on the agent's host, `laptop` is ada's machine elsewhere, `agent` is
    the agent's own unit, `mallory` is the attacker's machine. No account is made: they are user ids from 61000 up.
  - It cleans up at its end, at Ctrl-C, and when it is killed. Should the machine lose power: `cargo xtask demo --undo`.
";

impl Demo {
    /// Builds, then shows.
    pub(crate) fn run(&self) -> Result<()> {
        if let Some(name) = &self.watch {
            return leftovers::watch(name);
        }
        if self.undo {
            return if place::is_root() { leftovers::undo() } else { self.as_root(&["--undo"]) };
        }
        let screen = Screen::new(!self.no_color && std::io::stdout().is_terminal());
        let Some(program) = &self.program else {
            screen.title("Tidegate, shown", INTRO)?;
            setup::for_demo()?;
            let program = match std::env::var_os("TIDEGATE_BIN") {
                Some(built) => PathBuf::from(built),
                None => Build::default().run()?,
            };
            return if place::is_root() { self.show(screen, &program) } else { self.with_program(&program) };
        };
        self.show(screen, program)
    }

    /// The part that needs root, by sudo.
    fn with_program(&self, program: &std::path::Path) -> Result<()> {
        let program = program.display().to_string();
        let mut words = vec!["--program", &program];
        words.extend(self.keep.then_some("--keep"));
        words.extend(self.no_color.then_some("--no-color"));
        self.as_root(&words)
    }

    fn as_root(&self, words: &[&str]) -> Result<()> {
        let own = std::env::current_exe().context("the running program has a path")?;
        let prefix = place::privileged()?;
        let (first, rest) = prefix.split_first().context("not root, so there is a prefix")?;
        let sh = place::shell()?;
        // Ctrl-C is for the demo, which cleans up; we wait for that.
        catch_signals()?;
        Ok(cmd!(sh, "{first} {rest...} {own} demo {words...}").quiet().run()?)
    }

    fn show(&self, screen: Screen, program: &std::path::Path) -> Result<()> {
        let interrupted = catch_signals()?;
        let start = Instant::now();
        let mut stage = Stage::set_up(screen, program, interrupted)?;
        let shown = acts::all(&mut stage, self.keep);
        if let Err(error) = &shown
            && !stage.is_interrupted()
        {
            stage.show_logs(error);
        }
        let checks = stage.checks();
        let interrupted = stage.is_interrupted();
        let left = stage.tear_down();
        shown.context(if interrupted { "interrupted" } else { "the demo did not go as it should" })?;
        if !left.is_empty() {
            bail!("this stays behind: {}", left.join("; "));
        }
        let took = start.elapsed().as_secs();
        let sum = format!("{checks} promises checked in {took} s, all kept. Everything is removed again.");
        screen.title("That was it", &format!("{sum}\n{}", acts::NEXT))
    }
}

/// From now on these signals only set the flag.
fn catch_signals() -> Result<Arc<AtomicBool>> {
    let caught = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, caught.clone()).context("cannot catch signals")?;
    }
    Ok(caught)
}
