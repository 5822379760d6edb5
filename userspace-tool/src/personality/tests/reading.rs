// SPDX-License-Identifier: GPL-2.0

//! What a task may read and execute, and what does not exist for it.

use super::*;
use crate::profile::Device;

const READ: i32 = libc::O_RDONLY;
const PATH: i32 = libc::O_PATH;
const DIRECTORY: i32 = libc::O_RDONLY | libc::O_DIRECTORY;

/// The host's files, read only.
const FILES: FileAccess = FileAccess::Host {
    execute: false,
    write: profile::Write::No,
};

/// A tree of which a task has what `rules` say, by paths in it.
fn tree(rules: &[(&str, FileAccess)]) -> Tree {
    let mut tree = Tree::new();
    tree.access = access(&tree, rules, true);
    tree
}

fn access(tree: &Tree, rules: &[(&str, FileAccess)], jit: bool) -> Access {
    let mut all = Rules {
        jit,
        ..Rules::default()
    };
    for (path, access) in rules {
        let rule = FileRule {
            access: *access,
            origin: Origin::Program,
        };
        all.files.0.insert(tree.base.join(path), rule);
    }
    Access::new(all, false).unwrap()
}

/// What looking at a path comes to.
fn look(tree: &Tree, name: &str) -> Option<Errno> {
    tree.scope().look(AT, &tree.path(name), 0).err()
}

#[test]
fn what_no_rule_is_about_does_not_exist() {
    let tree = tree(&[("inside", FILES)]);
    for name in [
        "outside/file",
        "outside",
        "outside/back",
        "outside/missing",
        "inside/../outside/file",
        "inside/to-file",
        "inside/to-directory",
        "inside/to-directory/sub/file",
        "/etc/passwd",
        "/proc/self/root/etc/passwd",
        "/usr",
        "/dev/null",
    ] {
        for flags in [READ, PATH, PATH | libc::O_NOFOLLOW, libc::O_RDWR] {
            // The links themselves are there.
            let link = name.contains("/to-") && flags & libc::O_NOFOLLOW != 0;
            let link = link && !name.contains("sub");
            let result = error(tree.open(name, flags));
            match name {
                _ if link => assert_eq!(result, None, "{name} {flags:o}"),
                "/proc/self/root/etc/passwd" => {
                    let errors = [Errno::ELOOP, Errno::ENOENT];
                    assert!(result.is_some_and(|it| errors.contains(&it)), "{result:?}");
                }
                _ => assert_eq!(result, Some(Errno::ENOENT), "{name} {flags:o}"),
            }
        }
        if !name.starts_with("/proc") {
            assert_eq!(look(&tree, name), Some(Errno::ENOENT), "{name}");
        }
    }
    for name in [
        "inside/file",
        "inside/sub/file",
        "inside/to-own",
        "inside/sub/../file",
    ] {
        assert_eq!(error(tree.open(name, READ)), None, "{name}");
        assert_eq!(
            error(tree.open(name, libc::O_WRONLY)),
            Some(Errno::EROFS),
            "{name}"
        );
        assert_eq!(look(&tree, name), None, "{name}");
    }
    assert_eq!(error(tree.open("inside", DIRECTORY)), None);
}

#[test]
fn a_way_is_gone_but_not_read() {
    let tree = tree(&[("inside/sub", FILES)]);
    for name in ["", "inside", "/", "inside/.."] {
        assert_eq!(
            error(tree.open(name, DIRECTORY)),
            Some(Errno::EACCES),
            "{name}"
        );
        assert_eq!(error(tree.open(name, PATH)), None, "{name}");
        assert_eq!(look(&tree, name), None, "{name}");
    }
    // What else is on the way is not there, nor can it be asked for by trying to make it.
    for name in ["inside/file", "inside/to-own", "inside/missing"] {
        assert_eq!(look(&tree, name), Some(Errno::ENOENT), "{name}");
        let make = tree.scope().make_directory(AT, &tree.path(name), 0o755);
        assert_eq!(make, Err(Errno::EROFS), "{name}");
    }
    assert_eq!(error(tree.open("inside/sub/file", READ)), None);
    // By a descriptor of the way, nothing more is there.
    let way = tree.open("inside", PATH).unwrap();
    let open = |path| error(tree.open_how(way.as_raw_fd(), path, READ, 0, 0));
    assert_eq!(open(c"sub/file"), None);
    assert_eq!(open(c"file"), Some(Errno::ENOENT));
    assert_eq!(open(c"../outside/file"), Some(Errno::ENOENT));
    assert_eq!(open(c"."), Some(Errno::EACCES));
}

#[test]
fn single_files_are_there_alone() {
    let tree = tree(&[("inside/file", FILES)]);
    assert_eq!(error(tree.open("inside/file", READ)), None);
    assert_eq!(error(tree.open("inside/to-own", READ)), None);
    assert_eq!(look(&tree, "inside/sub/file"), Some(Errno::ENOENT));
    assert_eq!(look(&tree, "inside/sub"), Some(Errno::ENOENT));
}

#[test]
fn what_is_hidden_stays_so_and_where_it_is() {
    let change = FileAccess::Host {
        execute: false,
        write: profile::Write::Through,
    };
    let tree = tree(&[
        ("inside", change),
        ("inside/sub", FileAccess::Hidden),
        ("inside/file", FileAccess::Hidden),
    ]);
    for name in [
        "inside/sub",
        "inside/sub/file",
        "inside/file",
        "inside/to-own",
    ] {
        for flags in [READ, libc::O_RDWR, PATH] {
            assert_eq!(error(tree.open(name, flags)), Some(Errno::ENOENT), "{name}");
        }
        assert_eq!(look(&tree, name), Some(Errno::ENOENT), "{name}");
    }
    let (file, sub, new) = (
        tree.path("inside/file"),
        tree.path("inside/sub"),
        tree.path("inside/new"),
    );
    let scope = tree.scope();
    assert_eq!(scope.remove(AT, &file, 0), Err(Errno::EBUSY));
    assert_eq!(
        scope.remove(AT, &sub, libc::AT_REMOVEDIR),
        Err(Errno::EBUSY)
    );
    assert_eq!(scope.rename((AT, &sub), (AT, &new), 0), Err(Errno::EBUSY));
    assert_eq!(scope.rename((AT, &file), (AT, &new), 0), Err(Errno::EBUSY));
    assert_eq!(scope.link((AT, &file), (AT, &new), 0), Err(Errno::ENOENT));
    // Nor is it covered by something else.
    assert!(tree
        .open("inside/new", libc::O_WRONLY | libc::O_CREAT)
        .is_ok());
    assert_eq!(scope.rename((AT, &new), (AT, &file), 0), Err(Errno::EBUSY));
    // Somebody else may move it: it stays hidden.
    fs::rename(tree.base.join("inside/sub"), tree.base.join("inside/moved")).unwrap();
    assert_eq!(look(&tree, "inside/moved/file"), Some(Errno::ENOENT));
}

#[test]
fn nothing_above_what_is_kept_apart_moves() {
    let change = FileAccess::Host {
        execute: false,
        write: profile::Write::Through,
    };
    for (name, access) in [
        ("inside/sub/deep/kept", FILES),
        ("inside/sub/deep/kept", FileAccess::Hidden),
        ("inside/sub/deep/file", FILES),
    ] {
        let mut tree = tree(&[("inside", change)]);
        fs::create_dir_all(tree.base.join("inside/sub/deep/kept")).unwrap();
        fs::create_dir_all(tree.base.join("inside/other/deep")).unwrap();
        fs::write(tree.base.join("inside/sub/deep/file"), CONTENT).unwrap();
        let mut rules = tree.access.rules().clone();
        let origin = Origin::Option("--ro");
        rules
            .files
            .0
            .insert(tree.base.join(name), FileRule { access, origin });
        tree.access = Access::new(rules, false).unwrap();
        let scope = tree.scope();
        let [sub, deep, other, free, new] = [
            "inside/sub",
            "inside/sub/deep",
            "inside/other",
            "inside/other/deep",
            "inside/new",
        ]
        .map(|name| tree.path(name));
        for above in [&sub, &deep] {
            for (from, to, flags) in [
                (above, &new, 0),
                (above, &other, libc::RENAME_EXCHANGE),
                (&other, above, libc::RENAME_EXCHANGE),
            ] {
                let renamed = scope.rename((AT, from), (AT, to), flags);
                assert_eq!(renamed, Err(Errno::EBUSY), "{name} {above:?} {flags}");
            }
            let removed = scope.remove(AT, above, libc::AT_REMOVEDIR);
            assert_eq!(removed, Err(Errno::EBUSY), "{name} {above:?}");
        }
        assert_eq!(scope.rename((AT, &free), (AT, &new), 0), Ok(0));
        // The host may move it, and then what is above it is another one.
        fs::rename(
            tree.base.join("inside/sub/deep"),
            tree.base.join("inside/other/deep"),
        )
        .unwrap();
        let to = tree.path("inside/elsewhere");
        assert_eq!(scope.rename((AT, &other), (AT, &to), 0), Err(Errno::EBUSY));
        assert_eq!(scope.rename((AT, &sub), (AT, &to), 0), Ok(0));
    }
}

#[test]
fn directories_in_memory_are_not_the_hosts() {
    let tree = tree(&[("inside", FILES), ("inside/sub", FileAccess::Tmpfs)]);
    // Nobody has put one there, and the host's is not what was meant.
    assert_eq!(look(&tree, "inside/sub/file"), Some(Errno::ENOENT));
}

#[test]
fn code_comes_from_where_it_may() {
    let host = |execute, write| FileAccess::Host { execute, write };
    let rules = [
        ("inside", host(true, profile::Write::No)),
        ("inside/sub", FILES),
        ("outside", host(true, profile::Write::Through)),
    ];
    let execute = |tree: &Tree, name: &str| {
        let file = File::open(tree.base.join(name)).unwrap();
        tree.scope()
            .check_execute(std::os::fd::AsFd::as_fd(&file))
            .err()
    };
    let mut tree = tree(&rules);
    assert_eq!(execute(&tree, "inside/file"), None);
    assert_eq!(execute(&tree, "inside/sub/file"), Some(Errno::EACCES));
    assert_eq!(execute(&tree, "outside/file"), None);
    assert_eq!(execute(&tree, "/etc/passwd"), Some(Errno::EACCES));
    let memory = fds().memory_file(&fds().hold(), c"code", 4096).unwrap();
    let memory = std::os::fd::AsFd::as_fd(&memory);
    assert_eq!(tree.scope().check_execute(memory), Ok(()));
    // What it may write is not code, unless that is allowed.
    tree.access = access(&tree, &rules, false);
    assert_eq!(execute(&tree, "inside/file"), None);
    assert_eq!(execute(&tree, "outside/file"), Some(Errno::EACCES));
    assert_eq!(tree.scope().check_execute(memory), Err(Errno::EACCES));
    // A file that was moved is found where it is, or not at all.
    let file = File::open(tree.base.join("inside/file")).unwrap();
    fs::rename(
        tree.base.join("inside/file"),
        tree.base.join("inside/sub/moved"),
    )
    .unwrap();
    let moved = tree.scope().check_execute(std::os::fd::AsFd::as_fd(&file));
    assert_eq!(moved, Err(Errno::EACCES));
}

#[test]
fn devices_are_an_axis_of_their_own() {
    let mut tree = Tree::new();
    let mut rules = everything();
    rules.devices = vec![Device::Null];
    tree.access = Access::new(rules, false).unwrap();
    assert_eq!(error(tree.open("/dev/null", libc::O_RDWR)), None);
    for name in ["/dev/zero", "/dev/full", "/dev/urandom", "/dev/tty"] {
        assert_eq!(error(tree.open(name, READ)), Some(Errno::ENOENT), "{name}");
        assert_eq!(look(&tree, name), Some(Errno::ENOENT), "{name}");
    }
}

#[test]
fn what_is_hidden_is_not_opened_to_be_executed() {
    let tree = Tree::hiding("outside");
    let base = &tree.base;
    fs::copy("/bin/true", base.join("outside/program")).unwrap();
    fs::copy("/bin/true", base.join("inside/program")).unwrap();
    fs::write(base.join("outside/script"), "#!/no/interpreter\n").unwrap();
    fs::write(base.join("outside/rubbish"), "rubbish").unwrap();
    fs::write(
        base.join("inside/leads"),
        format!("#!{}/outside/program\n", base.display()),
    )
    .unwrap();
    for name in [
        "outside/script",
        "outside/rubbish",
        "inside/leads",
        "outside/sub/file",
    ] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(base.join(name), mode).unwrap();
    }
    // Who opens it waits for a writer, for ever.
    let pipe = tree.path("outside/pipe");
    // SAFETY: The path is a string.
    assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o777) }, 0);
    symlink("../outside/program", base.join("inside/link")).unwrap();
    let scope = tree.scope();
    let look = |path: &Path| scope.executable(path);
    let find = |name: &str| {
        let arguments = [name.as_bytes().to_vec()];
        crate::loader::Program::looked_up(&base.join(name), &arguments, &look)
    };
    assert!(find("inside/program").is_ok());
    let nothing = format!("{:?}", find("outside/none").unwrap_err());
    for name in [
        "outside/program",
        "outside/script",
        "outside/rubbish",
        "outside/file",
        "outside/sub",
        "outside/sub/file",
        "outside/pipe",
        "inside/link",
    ] {
        let error = format!("{:?}", find(name).unwrap_err());
        assert_eq!(error.replace(name, "outside/none"), nothing);
    }
    let error = find("inside/leads").unwrap_err();
    assert!(
        matches!(error, crate::loader::LoadError::NoInterpreter { .. }),
        "{error:?}"
    );
}

#[test]
fn whether_something_hidden_exists_is_not_told() {
    let tree = tree(&[("inside", FILES)]);
    fs::write(tree.base.join("outside/there"), CONTENT).unwrap();
    fs::create_dir(tree.base.join("outside/directory")).unwrap();
    let inside = tree.base.join("inside");
    for (name, target) in [
        ("link", ""),
        ("below", "/below"),
        ("slash", "/"),
        ("back", "/../../inside/file"),
    ] {
        for thing in ["there", "directory", "none"] {
            let target = format!("../outside/{thing}{target}");
            symlink(target, inside.join(format!("{name}-{thing}"))).unwrap();
        }
    }
    let flags = [
        READ,
        PATH,
        DIRECTORY,
        libc::O_WRONLY,
        libc::O_RDWR | libc::O_CREAT,
        libc::O_RDWR | libc::O_CREAT | libc::O_EXCL,
    ];
    for path in [
        "outside/THING",
        "outside/THING/",
        "outside/THING/below",
        "outside/THING/below/more",
        "outside/THING/../../inside/file",
        "inside/../outside/THING/../../inside",
        "inside/link-THING",
        "inside/link-THING/below",
        "inside/below-THING",
        "inside/below-THING/more",
        "inside/slash-THING",
        "inside/back-THING",
        "inside/back-THING/..",
    ] {
        let told = |thing: &str| {
            let path = path.replace("THING", thing);
            let opened = flags.map(|flags| error(tree.open(&path, flags)));
            let name = tree.path(&path);
            let removed = error(tree.scope().remove(AT, &name, 0));
            (opened, look(&tree, &path), removed)
        };
        let none = told("none");
        assert_eq!(none.1, Some(Errno::ENOENT), "{path}");
        for thing in ["there", "directory"] {
            assert_eq!(told(thing), none, "{path} {thing}");
        }
    }
    // What is there is told of as ever.
    assert_eq!(look(&tree, "inside/file/x"), Some(Errno::ENOTDIR));
    assert_eq!(look(&tree, "inside/loop/x"), Some(Errno::ELOOP));
    assert_eq!(look(&tree, "inside/sub/../file"), None);
    assert_eq!(look(&tree, "inside/../inside/to-own"), None);
}
