// SPDX-License-Identifier: GPL-2.0

//! The command line.

mod cgroup;
mod checks;
mod doctor;
mod info;
mod ps;
mod relay;
mod run;
mod style;
mod syscalls;
mod template;
mod verify;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// The status of `uvctl`'s own failures.
const FAILURE: u8 = 125;

/// How many processes and threads a task may have, if nothing else is said.
const PIDS: u32 = 512;

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
  uvctl ps                               which micro-VMs are there?
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
    Run(Run),
    /// Start programs once, to go on from there any number of times.
    #[command(subcommand)]
    Template(template::Command),
    /// Prove that a reset clone is what its template is.
    Verify(verify::Verify),
    /// List the micro-VMs that there are.
    Ps(ps::Ps),
    /// Print what micro-VMs hold.
    Stats(ps::Stats),
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
/// process's standard input, output and error, environment and working directory. It sees the
/// host's files, and can change none of them but those that --rw names.
#[derive(Debug, Args)]
#[command(
    override_usage = "uvctl run [OPTIONS] [--] PROGRAM [ARG]...\n       uvctl run [OPTIONS] --from TEMPLATE [-- ARG...]",
    after_help = "Exit status:
  that of the program; 128 plus the signal's number if a signal ended it (137 if it met its memory limit)
  125  uvctl itself failed, such as without the module
  126  the program was found and cannot be run
  127  the program, or its interpreter, was not found

Examples:
  uvctl run sha256sum /etc/passwd
  uvctl run -- ls -lR /usr/share/doc
  gzip -c big.log | uvctl run -- gunzip | wc -l
  uvctl run --rw out -- cp -r photos out/
  uvctl run --memory 64M --stats -- sort big.txt
  uvctl run --net host -- python3 fetch.py
  printf 'b\na\n' | uvctl run --from sorter    (see `uvctl help template`)
  uvctl run --trace-syscalls -- date"
)]
struct Run {
    /// Go on with a template instead of starting a program; the ARGs are what it reads at its checkpoint.
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "no_aslr")]
    from: Option<String>,
    /// Limit the memory of all processes of the program together to SIZE bytes; K, M and G are understood.
    #[arg(long, value_name = "SIZE", value_parser = run::size)]
    memory: Option<u64>,
    /// Limit how many processes and threads there are at a time; more fail with EAGAIN.
    #[arg(long, value_name = "N", default_value_t = PIDS, value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    pids: u32,
    /// Which network the program has.
    #[arg(long, value_name = "NETWORK", value_enum, default_value_t)]
    net: Net,
    /// Let the program change PATH: a file, or a directory and all below it; may be given several times.
    #[arg(
        long,
        value_name = "PATH",
        long_help = "Let the program change PATH: a file, or a directory and all below it; may be given several times.

It can do there what the user who runs uvctl can: write, make, remove, rename and link files, and change their modes, \
times and user.* attributes. It cannot make programs that are setuid or setgid, or devices, or give files to others, \
and it cannot change anything of /proc, /sys and /dev, whatever PATH is."
    )]
    rw: Vec<PathBuf>,
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

/// What `--net` can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Net {
    /// A loopback of its own, and nothing else.
    #[default]
    None,
    /// What the host reaches, its loopback included; but not its Unix sockets.
    Host,
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
        Command::Run(run) => return run::main(run),
        Command::Template(command) => return template::main(command),
        Command::Verify(verify) => return verify::main(verify),
        Command::Doctor(output) => return doctor::main(output),
        Command::Info(output) => info::main(output),
        Command::Ps(ps) => ps::list(&ps),
        Command::Stats(stats) => ps::stats(&stats),
        Command::Syscalls(syscalls) => syscalls::main(&syscalls),
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
            }) => run,
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
    fn there_is_no_network_by_default() {
        assert_eq!(run(&["ls"]).net, Net::None);
        assert_eq!(run(&["--net", "host", "ls"]).net, Net::Host);
        assert!(Cli::try_parse_from(["uvctl", "run", "--net", "bridge", "ls"]).is_err());
    }

    #[test]
    fn several_paths_can_be_allowed() {
        assert!(run(&["ls"]).rw.is_empty());
        assert_eq!(
            run(&["--rw", ".", "--rw=/tmp", "ls"]).rw,
            [".", "/tmp"].map(PathBuf::from)
        );
    }

    #[test]
    fn unknown_options_are_errors() {
        assert!(Cli::try_parse_from(["uvctl", "run", "--bogus", "ls"]).is_err());
        assert!(Cli::try_parse_from(["uvctl", "run"]).is_err());
        assert!(Cli::try_parse_from(["uvctl", "run", "--json", "ls"]).is_err());
        assert!(Cli::try_parse_from(["uvctl", "run", "--from", "x", "--no-aslr"]).is_err());
    }
}
