// SPDX-License-Identifier: GPL-2.0

//! Taking all that there is of something, until there is no more.

use crate::call::{call, error_name, exit, in_child, must, wait};

/// The error of a call that failed, or its result.
fn told(result: i64) -> String {
    match result {
        ..0 => error_name(-result),
        _ => format!("{result}"),
    }
}

/// Forks until that fails; children do nothing. One that ends makes room for another.
pub fn forks() {
    let mut children = Vec::new();
    let failed = loop {
        match call(libc::SYS_fork, &[]) {
            0 => loop {
                call(libc::SYS_pause, &[]);
            },
            pid @ 1.. => children.push(pid),
            failed => break failed,
        }
    };
    println!("{} children, then {}", children.len(), told(failed));
    if let Some(first) = children.first() {
        must(libc::SYS_kill, &[*first as u64, 9]);
        println!("one ended: {}", wait(*first));
        match call(libc::SYS_fork, &[]) {
            0 => exit(0),
            pid @ 1.. => println!("another one: {}", wait(pid)),
            failed => println!("another one: {}", told(failed)),
        }
    }
}

/// Makes threads until that fails.
pub fn threads() {
    let mut made = 0;
    let failed = loop {
        let builder = std::thread::Builder::new().stack_size(64 << 10);
        match builder.spawn(|| loop {
            std::thread::park();
        }) {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
    };
    println!(
        "{made} threads, then {:?}",
        failed
            .raw_os_error()
            .map(|number| error_name(number.into()))
    );
    exit(0);
}

/// Opens descriptors until that fails.
pub fn descriptors() {
    let mut limit = [0u64; 2];
    must(libc::SYS_getrlimit, &[7, limit.as_mut_ptr() as u64]);
    let mut last = 0;
    let failed = loop {
        match call(libc::SYS_dup, &[0]) {
            fd @ 0.. => last = fd,
            failed => break failed,
        }
    };
    println!(
        "up to the limit: {}, then {}",
        last as u64 + 1 == limit[0],
        told(failed)
    );
    let kinds: [(i64, [u64; 4]); 5] = [
        (
            libc::SYS_openat,
            [libc::AT_FDCWD as u64, c"/dev/null".as_ptr() as u64, 0, 0],
        ),
        (libc::SYS_pipe2, [limit.as_mut_ptr() as u64, 0, 0, 0]),
        (libc::SYS_epoll_create1, [0; 4]),
        (libc::SYS_memfd_create, [c"x".as_ptr() as u64, 0, 0, 0]),
        (libc::SYS_socket, [2, 1, 0, 0]),
    ];
    for (number, args) in kinds {
        println!("{number}: {}", told(call(number, &args)));
    }
    match call(libc::SYS_fork, &[]) {
        0 => exit(5),
        pid => println!("a child: {}", wait(pid)),
    }
}

/// Queues signals until that fails; then takes one, which makes room.
pub fn signals() {
    let (rt, mask) = (40u64, 1u64 << 39);
    let mask = &raw const mask as u64;
    must(libc::SYS_rt_sigprocmask, &[0, mask, 0, 8]);
    let pid = must(libc::SYS_getpid, &[]);
    let mut info = [0u64; 16];
    info[1] = -1i32 as u32 as u64;
    let info = info.as_ptr() as u64;
    let mut sent = 0;
    let failed = loop {
        match call(libc::SYS_rt_sigqueueinfo, &[pid, rt, info]) {
            0 => sent += 1,
            failed => break failed,
        }
    };
    println!("then {}", told(failed));
    println!("some were sent: {}", sent > 100);
    // A signal that is not queued comes in any case.
    println!("kill: {}", told(call(libc::SYS_kill, &[pid, 0])));
    let none = [0u64, 0];
    let taken = call(
        libc::SYS_rt_sigtimedwait,
        &[mask, 0, none.as_ptr() as u64, 8],
    );
    println!(
        "taken {taken}, again: {}",
        told(call(libc::SYS_rt_sigqueueinfo, &[pid, rt, info]))
    );
    // Threads begin and end with all of the queue taken.
    let threads: Vec<_> = (0..4).map(|n| std::thread::spawn(move || n)).collect();
    let sum: i32 = threads
        .into_iter()
        .map(|thread| thread.join().unwrap_or(-100))
        .sum();
    println!("threads: {sum}");
    // One that waits for ever keeps the process neither from its end nor from becoming another program.
    let waits = || {
        std::thread::spawn(|| loop {
            call(libc::SYS_pause, &[]);
        })
    };
    let become_other = || {
        waits();
        let program = c"/bin/true".as_ptr() as u64;
        let arguments = [program, 0];
        call(libc::SYS_execve, &[program, arguments.as_ptr() as u64, 0]).unsigned_abs()
    };
    let end_all = || {
        std::thread::spawn(|| exit(5));
        loop {
            call(libc::SYS_pause, &[]);
        }
    };
    println!("another program: {}", in_child(become_other));
    println!("all end: {}", in_child(end_all));
    // Of processes that others may wait for.
    let common = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    must(libc::SYS_mmap, &[0, 4096, 3, common as u64, u64::MAX, 0]);
    println!("another program: {}", in_child(become_other));
    println!("all end: {}", in_child(end_all));
    waits();
    std::thread::sleep(std::time::Duration::from_millis(50));
    println!("the end");
}

/// Touches memory, says so by a byte to a descriptor, and waits.
pub fn touch(fd: u64, mib: u64) {
    let len = mib << 20;
    let at = must(libc::SYS_mmap, &[0, len, 3, 0x22, u64::MAX, 0]);
    for page in (0..len).step_by(4096) {
        // SAFETY: The page was just mapped, and nobody else has it.
        unsafe { ((at + page) as *mut u8).write_volatile(1) };
    }
    must(libc::SYS_write, &[fd, c"x".as_ptr() as u64, 1]);
    loop {
        call(libc::SYS_pause, &[]);
    }
}

/// Fills a memory file: so many MiB, or as many as there are.
pub fn memory_file(mib: u64) {
    let fd = must(libc::SYS_memfd_create, &[c"hog".as_ptr() as u64, 0]);
    let data = vec![1u8; 1 << 20];
    let mut written = 0;
    for _ in 0..mib {
        if call(libc::SYS_write, &[fd, data.as_ptr() as u64, 1 << 20]) != 1 << 20 {
            break;
        }
        written += 1;
    }
    println!("{written} MiB");
}

/// Lets several children take memory, by `execve` or not; what becomes of each.
pub fn memory(children: u32, mib: u64, by_exec: bool) {
    let mut pipe = [0i32; 2];
    must(
        libc::SYS_pipe2,
        &[&raw mut pipe as u64, libc::O_NONBLOCK as u64],
    );
    let [read, write] = pipe.map(|fd| fd as u64);
    for _ in 0..children {
        let pid = call(libc::SYS_fork, &[]);
        if pid == 0 {
            if by_exec {
                let words = [
                    "robust_task".to_owned(),
                    "touch".into(),
                    write.to_string(),
                    mib.to_string(),
                ];
                let words = words.map(|word| std::ffi::CString::new(word).unwrap_or_default());
                let mut list: Vec<u64> = words.iter().map(|word| word.as_ptr() as u64).collect();
                list.push(0);
                let own = c"/proc/self/exe".as_ptr() as u64;
                call(
                    libc::SYS_execve,
                    &[own, list.as_ptr() as u64, list.as_ptr() as u64 + 32],
                );
                exit(1);
            }
            touch(write, mib);
        }
        let mut byte = 0u8;
        let outcome = loop {
            if call(libc::SYS_read, &[read, &raw mut byte as u64, 1]) == 1 {
                break "has it".to_owned();
            }
            let mut info = [0u64; 16];
            // Whether it has ended, which leaves it.
            let options = (libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) as u64;
            call(
                libc::SYS_waitid,
                &[1, pid as u64, info.as_mut_ptr() as u64, options, 0],
            );
            if info[0] as u32 != 0 {
                break wait(pid);
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        println!("{outcome}");
    }
}
