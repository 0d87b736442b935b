//! `nat64handoff top`: how the server is doing, live on a terminal. What it shows comes from the
//! server's admin socket, once a second.
//!
//! | file | what it is |
//! | --- | --- |
//! | `view` | what is shown, and what keys do: pure |
//! | `draw` | how it is drawn |

mod draw;
mod view;

use std::io::{self, IsTerminal};
use std::panic;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::de::DeserializeOwned;

use crate::kernel::{clock, signals};
use crate::programs::ask::client::{AskedServer, Method};
use crate::programs::exit::ExitError;
use crate::programs::options::{AskOptions, TopOptions};
use crate::programs::report::{Status, TableReport};
use crate::programs::top::view::{TopView, TopWanted};

/// From one question to the next.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long keys are waited for, at once.
const KEY_WAIT: Duration = Duration::from_millis(100);
/// The most tables that are shown.
const TABLES_MAX: usize = 1000;

/// What came of a question.
struct TopAnswer {
    status: Result<Status, String>,
    /// Of the NAT64 that is looked into.
    table: Option<TableReport>,
}

/// Shows the server until somebody has seen enough.
///
/// # Errors
/// Where there is no terminal, or no server at the beginning.
pub fn run(options: &TopOptions) -> Result<(), ExitError> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(ExitError::usage(
            "it wants a terminal; for programs there is: nat64handoff status --json",
        ));
    }
    let stop = signals::EndSignal::new().map_err(ExitError::failed)?;
    signals::let_through();
    let options =
        AskOptions { admin: options.admin.clone(), config: options.config.clone(), json: false };
    let server = AskedServer::of(&options)?;
    let mut view = TopView::default();
    view.take_status(Ok(status(&server)?), clock::instant());
    let (wanted, answers) = asking(server).map_err(ExitError::failed)?;
    let shown = on_screen(|terminal| show(terminal, &mut view, &wanted, &answers, &stop));
    match shown {
        Ok(shown) => shown,
        Err(error) => Err(ExitError::failed(format_args!("the terminal cannot be used: {error}"))),
    }
}

/// Leaves the terminal as it was, also after a panic, whose message can be read then.
fn on_screen<T>(shown: impl FnOnce(&mut DefaultTerminal) -> T) -> io::Result<T> {
    struct Screen(DefaultTerminal);
    impl Drop for Screen {
        fn drop(&mut self) {
            // Twice would take the cursor back to where it was before the message.
            if !thread::panicking() {
                leave();
            }
        }
    }
    let (this, before) = (thread::current().id(), panic::take_hook());
    panic::set_hook(Box::new(move |panicked| {
        if thread::current().id() == this {
            leave();
        }
        before(panicked);
    }));
    enable_raw_mode()?;
    let entered = execute!(io::stdout(), EnterAlternateScreen)
        .and_then(|()| DefaultTerminal::new(CrosstermBackend::new(io::stdout())));
    let mut screen = Screen(entered.inspect_err(|_| leave())?);
    Ok(shown(&mut screen.0))
}

fn leave() {
    // A terminal that has gone needs nothing.
    let _ = disable_raw_mode();
    let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
}

fn show(
    terminal: &mut DefaultTerminal,
    view: &mut TopView,
    wanted: &SyncSender<TopWanted>,
    answers: &Receiver<TopAnswer>,
    stop: &signals::EndSignal,
) -> Result<(), ExitError> {
    let failed =
        |error: io::Error| ExitError::failed(format_args!("the terminal cannot be used: {error}"));
    let mut drawn = None;
    loop {
        let now = clock::instant();
        let is_old = |drawn: Instant| now.saturating_duration_since(drawn) >= INTERVAL;
        if drawn.is_none_or(is_old) {
            terminal.draw(|frame| draw::draw(frame, view, now)).map_err(failed)?;
            drawn = Some(now);
        }
        if event::poll(KEY_WAIT).map_err(failed)? {
            drawn = None;
            match event::read().map_err(failed)? {
                Event::Key(key) if key.kind != KeyEventKind::Release => {
                    if view.key(key.code, key.modifiers) {
                        return Ok(());
                    }
                    // Where it is full, it asks that soon anyway.
                    let _ = wanted.try_send(view.wanted());
                }
                // What is drawn next has the terminal's size.
                _ => {}
            }
        }
        match answers.try_recv() {
            Ok(answer) => {
                drawn = None;
                view.take_status(answer.status, clock::instant());
                view.take_table(answer.table);
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => {
                return Err(ExitError::failed(
                    "nobody asks the server any more: a thread has ended",
                ));
            }
        }
        let mut polled = [PollFd::new(stop, PollFlags::IN)];
        if poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0) {
            return Ok(());
        }
    }
}

/// A thread that asks the server, what is wanted and once a second.
fn asking(server: AskedServer) -> io::Result<(SyncSender<TopWanted>, Receiver<TopAnswer>)> {
    let (wanted, wants) = mpsc::sync_channel::<TopWanted>(1);
    let (answer, answers) = mpsc::sync_channel(1);
    let ask = move || {
        let mut what = TopWanted::default();
        loop {
            match wants.recv_timeout(INTERVAL) {
                Ok(changed) if changed == what => continue,
                Ok(changed) => what = changed,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let status = status(&server).map_err(|error| error.message);
            // It may be gone.
            let of = what.table.as_ref().filter(|_| status.is_ok());
            let table = of.and_then(|nat64| read(&server, &format!("/tables/{nat64}")).ok());
            if answer.send(TopAnswer { status, table }).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("asking".to_owned()).spawn(ask)?;
    Ok((wanted, answers))
}

fn status(server: &AskedServer) -> Result<Status, ExitError> {
    read(server, &format!("/status?tables={TABLES_MAX}"))
}

fn read<T: DeserializeOwned>(server: &AskedServer, path: &str) -> Result<T, ExitError> {
    serde_json::from_slice(&server.ask(Method::Get, path)?).map_err(|error| {
        ExitError::failed(format_args!("the server's answer cannot be read: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const PANICS: &str = "A_TEST_PANICS_ON_A_TERMINAL";

    #[test]
    fn a_panic_leaves_the_terminal_as_it_was() {
        if std::env::var_os(PANICS).is_some() {
            let panics = on_screen(|terminal| {
                let draw = |frame: &mut ratatui::Frame<'_>| {
                    frame.render_widget("drawn-before", frame.area());
                };
                terminal.draw(draw).unwrap();
                panic!("for the test");
            });
            return panics.unwrap();
        }
        let program = std::env::current_exe().unwrap();
        let test = "programs::top::tests::a_panic_leaves_the_terminal_as_it_was";
        let run = format!(
            "stty rows 24 cols 80; before=$(stty -g); {PANICS}=1 '{}' --exact {test} --nocapture; \
             [ \"$before\" = \"$(stty -g)\" ] && echo as it was",
            program.display()
        );
        let output = Command::new("script").args(["-qec", &run, "/dev/null"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let place = |text: &str| said.rfind(text).unwrap_or_else(|| panic!("{text:?}: {said}"));
        assert!(place("\x1b[?1049h") < place("drawn-before"), "{said}");
        assert!(place("drawn-before") < place("\x1b[?1049l"), "{said}");
        assert!(place("\x1b[?25l") < place("\x1b[?25h"), "the cursor is there: {said}");
        assert!(place("\x1b[?1049l") < place("as it was"), "{said}");
        assert!(place("\x1b[?1049l") < place("for the test"), "the reason can be read: {said}");
        assert_eq!(said.matches("\x1b[?1049l").count(), 1);
    }
}
