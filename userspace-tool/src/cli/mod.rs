// SPDX-License-Identifier: GPL-2.0

//! The command line.

mod apart;
mod audit;
mod cgroup;
mod changes;
mod checks;
mod confinement;
mod doctor;
mod explain;
mod info;
mod keep;
mod learn;
mod privileges;
mod profile;
mod ps;
mod relay;
mod report;
mod run;
mod steward;
mod style;
mod syscalls;
mod template;
mod trace;
mod trial;
mod verify;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

/// The status of `uvctl`'s own failures.
const FAILURE: u8 = 125;

/// Runs a program in a micro-VM of its own.
#[derive(Debug, Parser)]
#[command(
    name = "uvctl",
    version,
    about = "Runs programs in micro-VMs: isolated by VT-x, without a guest kernel or a disk image",
    after_help = "Examples:
  uvctl run -- sha256sum /etc/passwd     run a program in a micro-VM
  uvctl run --stats -- sort words.txt    and say what that took
  uvctl template create sorter -- sort   start a program once,
  uvctl run --from sorter <words.txt     and go on from there any number of times
  uvctl run --overlay . --keep try -- make    let it change files, but not the host's,
  uvctl diff try                         look at what it changed,
  uvctl commit try                       and have that on the host
  uvctl ps                               which micro-VMs are there?
  uvctl trace 17                         what does one of them do?
  uvctl explain default                  what may a task touch under a profile?
  uvctl learn -- make check              which profile would a program need?
  uvctl syscalls --refused               which system calls does no program get?
  uvctl doctor                           can this machine run micro-VMs?

Run `uvctl help COMMAND` for more about a command."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
// Only what is called is looked at: that is a good part of the start of a small program.
#[command(defer = true)]
enum Command {
    /// Run a program in a micro-VM.
    Run(Box<Run>),
    /// Start programs once, to go on from there any number of times.
    Template(template::Line),
    /// Prove that a reset clone is what its template is.
    Verify(verify::Verify),
    /// List the micro-VMs that there are.
    Ps(ps::Ps),
    /// Print what micro-VMs hold.
    Stats(ps::Stats),
    /// Print what a task that runs does and is refused.
    Trace(trace::Trace),
    /// Print what a task changed in its overlays, or list what is kept.
    Diff(changes::Diff),
    /// Make changes that were kept on the host's files.
    Commit(changes::Commit),
    /// Throw away changes that were kept.
    Discard(changes::Discard),
    /// Look at profiles: what tasks may touch.
    Profile(profile::Line),
    /// Print all that a task could touch under a profile.
    Explain(explain::Explain),
    /// Learn the profile that a program needs.
    Learn(learn::Learn),
    /// Say what the audit of a task tells: what it did, and what was stopped.
    Report(report::Report),
    /// Say whether this machine can run micro-VMs, and what to do if it cannot.
    Doctor(Output),
    /// Print what the loaded module and the CPU offer.
    Info(Output),
    /// List the system calls of Linux, and what becomes of each in a micro-VM.
    Syscalls(syscalls::Syscalls),
    /// Print the completions for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the manual page, in roff.
    Man {
        /// The subcommand whose page it is; without it, that of uvctl.
        command: Option<String>,
    },
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Args)]
struct Output {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Run a program in a micro-VM.
///
/// The program is an ordinary Linux program; it is found on PATH as a shell finds it, and gets this
/// process's standard input, output and error, and working directory, which is empty where it has nothing of it. It sees the
/// files that its profile and the options name, and changes those that --rw names, or with --overlay a copy
/// of them that can be looked at (`uvctl diff`) and committed (`uvctl commit`) or thrown away.
#[derive(Debug, Args)]
#[command(
    override_usage = "uvctl run [OPTIONS] [--] PROGRAM [ARG]...\n       uvctl run [OPTIONS] --from TEMPLATE [-- ARG...]",
    after_help = "Exit status:
  that of the program; 128 plus the signal's number if a signal ended it (137 if it met the limit of its memory,
       its time or its exits)
  125  uvctl itself failed, such as without the module
  126  the program was found and cannot be run
  127  the program, or its interpreter, was not found

Examples:
  uvctl run sha256sum /etc/passwd
  uvctl run -- ls -lR /usr/share/doc
  gzip -c big.log | uvctl run -- gzip -dc | wc -l
  uvctl run --rw out -- cp -r photos out/
  uvctl run --overlay . --commit -- make           (asks, when it has ended)
  uvctl run --memory 64M --stats -- sort big.txt
  uvctl run --profile filter --time 10s --exits 100000 -- jq .name <hostile.json
  uvctl run --net host -- python3 fetch.py
  printf 'b\na\n' | uvctl run --from sorter    (see `uvctl help template`)
  uvctl run --audit events.jsonl -- ./hostile.sh   (what did it do, and what was it refused?)
  uvctl run --trace-syscalls -- date"
)]
struct Run {
    /// Go on with a template instead of starting a program; the ARGs are what it reads at its checkpoint.
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "no_aslr")]
    from: Option<String>,
    #[command(flatten)]
    privileges: privileges::Privileges,
    #[command(flatten)]
    keep: keep::Keep,
    #[command(flatten)]
    audit: audit::Audit,
    /// Give the program a terminal of its own, with job control; for shells and other interactive programs.
    #[arg(short = 't', long)]
    tty: bool,
    /// Keep standard input open, which it is in any case; so that `-it` works as elsewhere.
    #[arg(short = 'i', long, hide = true)]
    interactive: bool,
    /// Place the program's parts at the same addresses each time.
    #[arg(long)]
    no_aslr: bool,
    /// Print each system call and its result to standard error.
    #[arg(long)]
    trace_syscalls: bool,
    /// Print to standard error when it ends what its micro-VM holds, and what happened there and in those of its other
    /// processes (but for those that a signal killed).
    #[arg(long)]
    stats: bool,
    /// Print the statistics as JSON.
    #[arg(long, requires = "stats")]
    json: bool,
    /// The program and its arguments; all that follows the program's name is the program's.
    #[arg(
        value_name = "PROGRAM",
        required_unless_present = "from",
        trailing_var_arg = true
    )]
    command: Vec<OsString>,
}

/// Does what the command line says.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A closed pipe is no reason to fail over.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { FAILURE } else { 0 });
        }
    };
    let result = match cli.command {
        Command::Run(run) => return run::main(&run),
        Command::Template(command) => return template::main(command),
        Command::Report(report) => report::main(&report),
        Command::Learn(learn) => return learn::main(&learn),
        Command::Verify(verify) => return verify::main(verify),
        Command::Doctor(output) => return doctor::main(output),
        Command::Info(output) => info::main(output),
        Command::Ps(ps) => ps::list(&ps),
        Command::Stats(stats) => ps::stats(&stats),
        Command::Trace(trace) => trace::main(&trace),
        Command::Syscalls(syscalls) => syscalls::main(&syscalls),
        Command::Diff(diff) => changes::diff(&diff),
        Command::Commit(commit) => return changes::commit(&commit),
        Command::Discard(discard) => return changes::discard(&discard),
        Command::Profile(command) => profile::main(&command),
        Command::Explain(explain) => explain::main(&explain),
        Command::Completions { shell } => {
            // To memory first: what writes to a pipe that nobody reads any more panics.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "uvctl", &mut script);
            print(&script)
        }
        Command::Man { command } => man(command.as_deref()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("uvctl: {text}");
            ExitCode::from(FAILURE)
        }
    }
}

/// Prints a manual page.
fn man(name: Option<&str>) -> Result<(), String> {
    let mut command = Cli::command();
    command.build();
    let page = match name {
        None => command,
        Some(name) => command
            .find_subcommand(name)
            .ok_or_else(|| format!("there is no command {name}"))?
            .clone(),
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page)
        .render(&mut text)
        .map_err(|error| error.to_string())?;
    print(&text)
}

/// Prints what is text.
fn print(text: &[u8]) -> Result<(), String> {
    style::print(&String::from_utf8_lossy(text)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &[&str]) -> Run {
        match Cli::try_parse_from(["uvctl", "run"].iter().chain(line)) {
            Ok(Cli {
                command: Command::Run(run),
            }) => *run,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_the_program_is_the_programs() {
        for line in [
            &["--stats", "ls", "-l", "--stats", "--", "x"][..],
            &["--stats", "--", "ls", "-l", "--stats", "--", "x"],
        ] {
            let run = run(line);
            assert!(run.stats);
            assert_eq!(run.command, ["ls", "-l", "--stats", "--", "x"]);
        }
        let run = run(&["ls", "--stats"]);
        assert!(!run.stats);
        assert_eq!(run.command, ["ls", "--stats"]);
    }

    #[test]
    fn a_template_takes_the_place_of_the_program() {
        assert!(run(&["--from", "x"]).command.is_empty());
        assert_eq!(run(&["--from", "x", "--", "-a", "b"]).command, ["-a", "b"]);
    }

    #[test]
    fn unknown_options_are_errors() {
        assert!(Cli::try_parse_from(["uvctl", "run", "--bogus", "ls"]).is_err());
        assert!(Cli::try_parse_from(["uvctl", "run"]).is_err());
        assert!(Cli::try_parse_from(["uvctl", "run", "--json", "ls"]).is_err());
        assert!(Cli::try_parse_from(["uvctl", "run", "--from", "x", "--no-aslr"]).is_err());
        for line in [
            &["--keep", "x", "--commit"][..],
            &["--keep", "x", "--discard"],
            &["--discard", "--commit"],
            &["--yes"],
            &["--keep", "x", "--yes"],
        ] {
            let line = ["uvctl", "run"].iter().chain(line).chain(&["ls"]);
            assert!(Cli::try_parse_from(line).is_err());
        }
    }
}
