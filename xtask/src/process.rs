//! Child processes: bounded commands, and daemons that never outlive us.
//!
//! Each child leads its own process group, so that a Ctrl-C reaches us alone and we end the children in order.
//! Each is started through `setpriv --pdeathsig KILL`, which keeps its pid over the exec: should we ourselves be
//! killed, the kernel ends them. That signal follows the *thread* that started the child, so children are started
//! from the main thread only.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::error::{During, Failure, Result};
use crate::interrupt::{self, Look, wait_for};

/// How long a command may take when nothing else is said.
const DEFAULT_LIMIT: Duration = Duration::from_secs(60);
/// How much of a command's output an error message repeats, in lines.
const OUTPUT_LINES: usize = 40;

/// A command that ends by itself, within a limit.
#[derive(Debug)]
pub(crate) struct Tool {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    limit: Duration,
}

/// How a [`Tool`] ended.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The command line, for messages.
    pub(crate) command: String,
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// Its standard output.
    pub(crate) stdout: String,
    /// Its standard error.
    pub(crate) stderr: String,
    /// How long it ran.
    pub(crate) took: Duration,
}

impl Tool {
    /// A command without arguments yet.
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            limit: DEFAULT_LIMIT,
        }
    }

    /// Adds one argument.
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub(crate) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Sets how long it may take.
    pub(crate) fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    fn line(&self) -> String {
        let mut line = self.program.to_string_lossy().into_owned();
        for arg in &self.args {
            line.push(' ');
            line.push_str(&arg.to_string_lossy());
        }
        line
    }

    /// Runs it and collects its output, whatever its exit code.
    pub(crate) fn run(self) -> Result<Finished> {
        let command = self.line();
        // Files, not pipes: nothing to drain while waiting, and no deadlock on a full pipe.
        let mut stdout = tempfile::tempfile().during("opening a file for output")?;
        let mut stderr = tempfile::tempfile().during("opening a file for output")?;
        let began = Instant::now();
        let child = guarded(&self.program, &self.args, &self.env, OnOurDeath::Kill)
            .stdin(Stdio::null())
            .stdout(stdout.try_clone().during("sharing an output file")?)
            .stderr(stderr.try_clone().during("sharing an output file")?)
            .spawn()
            .during(format!("starting `{command}`"))?;
        let mut running = Running { child, ended: None };
        let ended = wait_for(&format!("`{command}`"), self.limit, || running.poll());
        let ended = match ended {
            Ok(status) => status,
            Err(Failure::Overdue { what, limit, .. }) => {
                let detail = tail_of(&(read_back(&mut stdout)? + &read_back(&mut stderr)?));
                return Err(Failure::Overdue {
                    what,
                    limit,
                    detail,
                });
            }
            Err(other) => return Err(other),
        };
        Ok(Finished {
            command,
            status: ended,
            stdout: read_back(&mut stdout)?,
            stderr: read_back(&mut stderr)?,
            took: began.elapsed(),
        })
    }

    /// Runs it; anything but exit code 0 is a failure that repeats its output.
    pub(crate) fn succeed(self) -> Result<Finished> {
        let finished = self.run()?;
        if finished.status.success() {
            Ok(finished)
        } else {
            Err(finished.into_failure())
        }
    }
}

impl Finished {
    /// The exit code, or `None` when a signal ended it.
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Standard output and standard error together.
    pub(crate) fn output(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// This ending as a failure.
    pub(crate) fn into_failure(self) -> Failure {
        let output = tail_of(&self.output());
        Failure::Command {
            command: self.command,
            status: self.status,
            output,
        }
    }
}

/// A process that runs until it is told to end. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Daemon {
    name: String,
    log: PathBuf,
    /// How long the log was when this process began to add to it, in bytes.
    log_from: usize,
    running: Running,
}

/// The pipes of a daemon that is talked to.
#[derive(Debug)]
pub(crate) struct Pipes {
    /// Its standard input.
    pub(crate) stdin: ChildStdin,
    /// Its standard output.
    pub(crate) stdout: ChildStdout,
}

impl Daemon {
    /// Starts it; both outputs are appended to `log`.
    pub(crate) fn start<A: AsRef<OsStr>>(
        name: &str,
        program: &Path,
        args: impl IntoIterator<Item = A>,
        log: &Path,
    ) -> Result<Self> {
        let (file, log_from) = append_to(log)?;
        let errors = file.try_clone().during("sharing a log file")?;
        let args = owned(args);
        let child = guarded(program.as_os_str(), &args, &[], OnOurDeath::Kill)
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .spawn()
            .during(format!("starting {name}"))?;
        Ok(Self::of(name, log, log_from, child))
    }

    /// Starts it with pipes on its standard input and output; standard error is appended to `log`. Should we die, it
    /// is asked to end rather than killed, and may clean up.
    pub(crate) fn start_piped<A: AsRef<OsStr>>(
        name: &str,
        program: &Path,
        args: impl IntoIterator<Item = A>,
        log: &Path,
    ) -> Result<(Self, Pipes)> {
        let args = owned(args);
        let (file, log_from) = append_to(log)?;
        let mut child = guarded(program.as_os_str(), &args, &[], OnOurDeath::Terminate)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .during(format!("starting {name}"))?;
        let stdin = child.stdin.take().expect("standard input was piped");
        let stdout = child.stdout.take().expect("standard output was piped");
        Ok((
            Self::of(name, log, log_from, child),
            Pipes { stdin, stdout },
        ))
    }

    fn of(name: &str, log: &Path, log_from: usize, child: Child) -> Self {
        let running = Running { child, ended: None };
        Self {
            name: name.to_owned(),
            log: log.to_owned(),
            log_from,
            running,
        }
    }

    /// The name it was started under.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where its output goes.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// Waits until it logged a line that contains `text`.
    pub(crate) fn wait_log(&self, text: &str, limit: Duration) -> Result<()> {
        wait_for(
            &format!("{text:?} in the log of {}", self.name),
            limit,
            || {
                let log =
                    std::fs::read(&self.log).during(format!("reading {}", self.log.display()))?;
                let news = String::from_utf8_lossy(log.get(self.log_from..).unwrap_or_default())
                    .into_owned();
                Ok(if news.contains(text) {
                    Look::There(())
                } else {
                    Look::NotYet(tail_of(&news))
                })
            },
        )
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.running.child.id()
    }

    /// Sends a signal, unless it has ended.
    pub(crate) fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.ended()?.is_some() {
            fail_ended(&self.name, &self.log)?;
        }
        kill_process(self.running.pid(), signal).during(format!("signalling {}", self.name))
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        match self.running.poll()? {
            Look::There(status) => Ok(Some(status)),
            Look::NotYet(_) => Ok(None),
        }
    }

    /// Waits for it to end by itself.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        wait_for(&what, limit, || self.running.poll())
    }

    /// Asks it to end (SIGTERM) and waits.
    pub(crate) fn stop(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(limit)
    }

    /// Ends it with SIGKILL and reaps it.
    pub(crate) fn kill(&mut self) {
        self.running.kill();
    }
}

/// A child and its end. Dropping it kills the child's process group.
#[derive(Debug)]
struct Running {
    child: Child,
    ended: Option<ExitStatus>,
}

impl Running {
    fn pid(&self) -> Pid {
        let raw = i32::try_from(self.child.id()).expect("process ids fit an i32");
        Pid::from_raw(raw).expect("a child's process id is not zero")
    }

    fn poll(&mut self) -> Result<Look<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().during("waiting for a child")?;
        }
        Ok(match self.ended {
            Some(status) => Look::There(status),
            None => Look::NotYet("still running".to_owned()),
        })
    }

    fn kill(&mut self) {
        if self.ended.is_some() {
            return;
        }
        // It leads its own group; both may be gone already, which is what was wanted.
        let _gone = kill_process_group(self.pid(), Signal::KILL);
        let _gone = self.child.kill();
        self.ended = self.child.wait().ok();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether a process of this id exists and is not a zombie.
pub(crate) fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| {
            stat.rsplit_once(')')
                .map(|(_, rest)| !rest.trim_start().starts_with('Z'))
        })
        .unwrap_or(false)
}

/// All descendants of a process, children before grandchildren.
pub(crate) fn descendants(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut at = 0;
    while let Some(&parent) = found.get(at) {
        at += 1;
        let tasks = std::fs::read_dir(format!("/proc/{parent}/task"));
        for task in tasks.into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(task.path().join("children"));
            let children = children.unwrap_or_default();
            found.extend(
                children
                    .split_whitespace()
                    .filter_map(|child| child.parse::<u32>().ok()),
            );
        }
    }
    found.remove(0);
    found
}

/// Sends a signal to a process that is not our child. Gone already is no error.
pub(crate) fn signal_pid(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _gone = kill_process(pid, signal);
    }
}

/// The last lines of some output, indented, on lines of their own; nothing when there was none.
pub(crate) fn tail_of(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    let from = lines.len().saturating_sub(OUTPUT_LINES);
    lines
        .iter()
        .skip(from)
        .map(|line| format!("\n    | {line}"))
        .collect()
}

/// What the kernel does to a child when we die.
#[derive(Debug, Clone, Copy)]
enum OnOurDeath {
    Kill,
    Terminate,
}

fn guarded(
    program: &OsStr,
    args: &[OsString],
    env: &[(OsString, OsString)],
    on_our_death: OnOurDeath,
) -> Command {
    let signal = match on_our_death {
        OnOurDeath::Kill => "KILL",
        OnOurDeath::Terminate => "TERM",
    };
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", signal, "--"])
        .arg(program)
        .args(args)
        .process_group(0);
    for (name, value) in env {
        command.env(name, value);
    }
    command
}

fn owned<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Vec<OsString> {
    args.into_iter()
        .map(|arg| arg.as_ref().to_owned())
        .collect()
}

/// Opens a log for appending; says how long it is already, in bytes.
fn append_to(log: &Path) -> Result<(File, usize)> {
    let file = OpenOptions::new().create(true).append(true).open(log);
    let file = file.during(format!("opening {}", log.display()))?;
    let length = file
        .metadata()
        .during(format!("opening {}", log.display()))?
        .len();
    Ok((file, usize::try_from(length).unwrap_or(usize::MAX)))
}

fn read_back(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind().during("reading a command's output")?;
    file.read_to_end(&mut bytes)
        .during("reading a command's output")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn fail_ended(name: &str, log: &Path) -> Result<()> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    Err(Failure::Expected(format!(
        "{name} has ended by itself{}",
        tail_of(&text)
    )))
}

/// A step of the gate whose output is shown. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Background {
    running: Running,
}

impl Background {
    /// Starts it.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let line = format!("{command:?}");
        let child = command
            .process_group(0)
            .spawn()
            .during(format!("starting {line}"))?;
        Ok(Self {
            running: Running { child, ended: None },
        })
    }

    /// Waits for it to end by itself, for as long as it takes.
    pub(crate) fn wait(mut self) -> Result<ExitStatus> {
        loop {
            interrupt::check()?;
            if let Look::There(status) = self.running.poll()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
