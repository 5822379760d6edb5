// SPDX-License-Identifier: GPL-2.0

//! Properties of what two sets of rules both allow: nothing that one refuses, whichever is asked first, and the same
//! if both are the same.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::super::{Device, Protocol, Write};
use super::*;
use crate::personality::table::TABLE;

/// Few of each, so that they meet.
const PATHS: &[&str] = &["/", "/a", "/a/b", "/a/b/c", "/a/d", "/ab", "/e"];
const ADDRESSES: &[(&str, u8)] = &[
    ("0.0.0.0", 0),
    ("192.0.2.0", 24),
    ("192.0.2.128", 25),
    ("192.0.2.129", 32),
    ("2001:db8::", 32),
    ("2001:db8::1", 128),
];
const NAMES: &[&str] = &["A", "AB", "AB*", "A*", "B", "*", "LC_*", "LC_ALL"];
const PORTS: &[u16] = &[0, 1, 80, 443, 65535];

fn origin_of() -> impl Strategy<Value = Origin> {
    prop_oneof![
        (select(&["x", "y"][..]), 0..9usize).prop_map(|(name, line)| Origin::Profile {
            name: name.to_owned(),
            line
        }),
        Just(Origin::Option("--ro")),
        Just(Origin::Program),
    ]
}

fn files() -> impl Strategy<Value = FileRules> {
    let host = (
        any::<bool>(),
        select(&[Write::No, Write::Overlay, Write::Through][..]),
    );
    let access = prop_oneof![
        Just(FileAccess::Hidden),
        Just(FileAccess::Tmpfs),
        host.prop_map(|(execute, write)| FileAccess::Host { execute, write }),
    ];
    let rule = (access, origin_of()).prop_map(|(access, origin)| FileRule { access, origin });
    btree_map(select(PATHS).prop_map(PathBuf::from), rule, 0..6).prop_map(FileRules)
}

fn programs() -> impl Strategy<Value = Option<ProgramRules>> {
    let paths = btree_map(select(PATHS).prop_map(PathBuf::from), origin_of(), 0..4);
    of(paths.prop_map(ProgramRules))
}

fn network() -> impl Strategy<Value = NetworkRules> {
    let host = prop_oneof![
        Just(Host::Any),
        select(&["x.example", "y.example"][..]).prop_map(|name| Host::Name(name.to_owned())),
        select(ADDRESSES)
            .prop_map(|(address, prefix)| Host::Network(address.parse().unwrap(), prefix)),
    ];
    let protocol = select(&[Protocol::Tcp, Protocol::Udp][..]);
    let rule = (
        any::<bool>(),
        protocol,
        host,
        select(PORTS),
        select(PORTS),
        origin_of(),
    );
    let rule = rule.prop_map(|(listen, protocol, host, one, two, origin)| NetworkRule {
        listen,
        protocol,
        host,
        ports: (one.min(two), one.max(two)),
        origin,
    });
    prop_oneof![
        1 => Just(NetworkRules::None),
        1 => Just(NetworkRules::Host),
        6 => vec(rule, 0..6).prop_map(NetworkRules::only),
    ]
}

fn syscalls() -> impl Strategy<Value = SyscallRules> {
    let name = (0..24usize).prop_map(|at| TABLE[at].name);
    btree_map(name, origin_of(), 0..12).prop_map(|refused| SyscallRules { refused })
}

fn environment() -> impl Strategy<Value = EnvironmentRules> {
    let set = btree_map(
        select(&["A", "AB", "B", "LC_ALL"][..]).prop_map(OsString::from),
        select(&["0", "1"][..]).prop_map(OsString::from),
        0..4,
    );
    (vec(select(NAMES), 0..5), set).prop_map(|(names, set)| {
        let mut rules = EnvironmentRules::default();
        for name in names {
            rules.keep(name).unwrap();
        }
        rules.set = set;
        rules
    })
}

fn limits() -> impl Strategy<Value = LimitRules> {
    let number = || of(0..4u32);
    let counts = (number(), number(), number());
    (number(), number(), number(), counts).prop_map(|(memory, cpu, time, (pids, fds, exits))| {
        let seconds = |number: u32| Duration::from_secs(number.into());
        LimitRules {
            memory: memory.map(u64::from),
            cpu: cpu.map(seconds),
            time: time.map(seconds),
            pids,
            fds,
            exits: exits.map(u64::from),
        }
    })
}

fn rules() -> impl Strategy<Value = Rules> {
    let devices = subsequence(&Device::ALL[..], 0..=Device::ALL.len());
    let switches = (any::<bool>(), any::<bool>(), programs(), any::<[bool; 2]>());
    (
        files(),
        network(),
        syscalls(),
        devices,
        environment(),
        limits(),
        switches,
    )
        .prop_map(
            |(files, network, syscalls, devices, environment, limits, switches)| Rules {
                name: "x".into(),
                files,
                network,
                fork: switches.0,
                programs: switches.2,
                jit: switches.1,
                execute_only: switches.3[0],
                precise_clock: switches.3[1],
                syscalls,
                devices,
                environment,
                limits,
                pinned: Vec::new(),
            },
        )
}

/// What can be done with a path: seeing an empty directory, reading and executing the host's files, changing what is
/// seen, and changing the host's files.
fn of_path(rules: &Rules, path: &str) -> [bool; 5] {
    match rules
        .files
        .decide(Path::new(path))
        .map(|(_, rule)| rule.access)
    {
        None | Some(FileAccess::Hidden) => [false; 5],
        Some(FileAccess::Tmpfs) => [true, false, false, false, false],
        Some(FileAccess::Host { execute, write }) => {
            let (changes, through) = (write != Write::No, write == Write::Through);
            [true, true, execute, changes, through]
        }
    }
}

/// Where somebody wants to connect to or to listen.
#[derive(Clone, Copy, Debug)]
enum Target {
    Address(IpAddr),
    Name(&'static str),
}

/// Whether that is allowed.
fn reaches(rules: &Rules, listen: bool, protocol: Protocol, target: Target, port: u16) -> bool {
    let has = |host: &Host| match (host, target) {
        (Host::Any, _) => true,
        (Host::Name(name), Target::Name(wanted)) => name == wanted,
        (Host::Network(network, prefix), Target::Address(address)) => {
            network.is_ipv4() == address.is_ipv4() && mask(address, *prefix) == *network
        }
        _ => false,
    };
    match &rules.network {
        NetworkRules::None => false,
        NetworkRules::Host => true,
        NetworkRules::Only(rules) => rules.iter().any(|rule| {
            rule.listen == listen
                && rule.protocol == protocol
                && has(&rule.host)
                && (rule.ports.0..=rule.ports.1).contains(&port)
        }),
    }
}

/// All questions that can be asked about rules, and whether they allow it.
fn answers(rules: &Rules) -> Vec<(String, bool)> {
    let mut answers = Vec::new();
    for path in PATHS.iter().chain(&["/a/b/c/x", "/abc", "/f"]) {
        let all = of_path(rules, path);
        answers.extend(
            all.iter()
                .enumerate()
                .map(|(at, yes)| (format!("{path} {at}"), *yes)),
        );
    }
    for path in PATHS.iter().chain(&["/a/b/c/x", "/abc", "/f"]) {
        let yes = rules.programs.as_ref();
        let yes = yes.is_none_or(|programs| programs.has(Path::new(path)));
        answers.push((format!("start {path}"), yes));
    }
    let addresses = [
        "192.0.2.1",
        "192.0.2.129",
        "198.51.100.1",
        "2001:db8::1",
        "2001:db8::2",
        "::1",
    ];
    let addresses = addresses.map(|address| Target::Address(address.parse().unwrap()));
    let names = ["x.example", "y.example", "z.example"].map(Target::Name);
    for target in addresses.into_iter().chain(names) {
        for port in [0, 1, 2, 80, 443, 444, 65535] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                for listen in [false, true] {
                    let yes = reaches(rules, listen, protocol, target, port);
                    answers.push((format!("{listen} {protocol:?} {target:?} {port}"), yes));
                }
            }
        }
    }
    for call in TABLE {
        answers.push((
            call.name.into(),
            !rules.syscalls.refused.contains_key(call.name),
        ));
    }
    for device in Device::ALL {
        answers.push((device.name().into(), rules.devices.contains(&device)));
    }
    answers.push(("fork".into(), rules.fork));
    answers.push(("jit".into(), rules.jit));
    answers.push(("clock".into(), rules.precise_clock));
    answers.push(("read code".into(), !rules.execute_only));
    for name in ["A", "AB", "ABC", "B", "C", "LC_", "LC_ALL"].map(OsString::from) {
        let set = rules.environment.set.contains_key(&name);
        let yes = rules.environment.keeps(&name) && !set;
        answers.push((format!("the host's {name:?}"), yes));
    }
    for amount in 0..5u32 {
        let seconds = Duration::from_secs(amount.into());
        let limits = &rules.limits;
        for (what, yes) in [
            (
                "memory",
                limits.memory.is_none_or(|limit| u64::from(amount) <= limit),
            ),
            ("cpu", limits.cpu.is_none_or(|limit| seconds <= limit)),
            ("time", limits.time.is_none_or(|limit| seconds <= limit)),
            ("pids", limits.pids.is_none_or(|limit| amount <= limit)),
            ("fds", limits.fds.is_none_or(|limit| amount <= limit)),
            (
                "exits",
                limits.exits.is_none_or(|limit| u64::from(amount) <= limit),
            ),
        ] {
            answers.push((format!("{what} {amount}"), yes));
        }
    }
    answers
}

/// Whether rules let a variable have a value: set so, or the host's, which can be any.
fn may_be(rules: &EnvironmentRules, name: &OsString, value: &OsString) -> bool {
    rules.set.get(name) == Some(value) || rules.keeps(name)
}

proptest! {
    #[test]
    fn what_one_refuses_is_refused_and_what_both_allow_is_allowed(one in rules(), two in rules()) {
        let both = one.narrow(&two);
        let theirs = answers(&one).into_iter().zip(answers(&two));
        for ((what, yes), ((_, first), (_, second))) in answers(&both).into_iter().zip(theirs) {
            // A name that one has and a network that the other has may meet, which only a look-up would say:
            // nothing is asked here that depends on it.
            prop_assert_eq!(yes, first && second, "{}", what);
        }
        for (name, value) in &both.environment.set {
            prop_assert!(may_be(&one.environment, name, value), "{name:?}={value:?}");
            prop_assert!(may_be(&two.environment, name, value), "{name:?}={value:?}");
        }
    }

    #[test]
    fn it_is_no_matter_which_is_asked(one in rules(), two in rules()) {
        prop_assert_eq!(one.narrow(&two), two.narrow(&one));
    }

    #[test]
    fn twice_is_once(one in rules(), two in rules()) {
        let both = one.narrow(&two);
        prop_assert_eq!(&both.narrow(&both), &both);
        prop_assert_eq!(&both.narrow(&two), &both);
        let itself = one.narrow(&one);
        prop_assert_eq!(answers(&itself), answers(&one));
        prop_assert_eq!(itself.files, one.files);
        prop_assert_eq!(itself.environment.set, one.environment.set);
    }
}

#[test]
fn origins_are_those_of_the_narrower_side() {
    let rule = |access, line| FileRule {
        access,
        origin: Origin::Profile {
            name: "x".into(),
            line,
        },
    };
    let host = |execute, write| FileAccess::Host { execute, write };
    let files =
        |path: &str, access, line| FileRules([(PathBuf::from(path), rule(access, line))].into());
    let wide = files("/a", host(true, Write::No), 1);
    let narrow = files("/a/b", host(false, Write::No), 2);
    for both in [wide.narrow(&narrow), narrow.narrow(&wide)] {
        assert_eq!(both, files("/a/b", host(false, Write::No), 2));
    }
    // Neither says what is left: the first one by line stands for both.
    let other = files("/a", host(false, Write::Through), 3);
    assert_eq!(other.narrow(&wide), files("/a", host(false, Write::No), 1));
}

#[test]
fn a_name_and_a_network_have_nothing_in_common_that_is_known() {
    let only = |text: &str| text.parse::<NetworkRules>().unwrap();
    let (name, network) = (only("tcp:example.org:443"), only("tcp:192.0.2.0/24:443"));
    assert_eq!(name.narrow(&network), NetworkRules::None);
    assert_eq!(name.narrow(&only("tcp:*:1-1023")), name);
    assert_eq!(name.narrow(&name), name);
}
