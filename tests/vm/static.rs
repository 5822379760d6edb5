// SPDX-License-Identifier: GPL-2.0

//! A static program of Rust's standard library, for tests: threads, channels, locks, files, processes, panics.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::{mpsc, Arc, Condvar, Mutex, RwLock};
use std::time::{Duration, Instant};
use std::{env, fs, io, net, panic, thread};

fn threads() -> u64 {
    let sum = Arc::new(Mutex::new(0));
    let all: Vec<_> = (0..8)
        .map(|n| {
            let sum = Arc::clone(&sum);
            thread::spawn(move || {
                for i in 0..1000 {
                    *sum.lock().unwrap() += n * i;
                }
            })
        })
        .collect();
    for thread in all {
        thread.join().unwrap();
    }
    let sum = *sum.lock().unwrap();
    sum
}

fn channel() -> Vec<usize> {
    let (send, receive) = mpsc::sync_channel(2);
    thread::scope(|scope| {
        for n in 0..4 {
            let send = send.clone();
            scope.spawn(move || (0..25).for_each(|i| send.send(n * 100 + i).unwrap()));
        }
        drop(send);
        let mut got: Vec<_> = receive.iter().collect();
        got.sort_unstable();
        got
    })
}

fn waiting() -> bool {
    let pair = (Mutex::new(false), Condvar::new());
    let early = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(20));
            *pair.0.lock().unwrap() = true;
            pair.1.notify_one();
        });
        let done = pair.1.wait_while(pair.0.lock().unwrap(), |done| !*done).unwrap();
        *done && early.elapsed() >= Duration::from_millis(20)
    })
}

fn words(path: &str) -> io::Result<BTreeMap<String, usize>> {
    let mut count = HashMap::new();
    for line in BufReader::new(fs::File::open(path)?).lines() {
        for word in line?.split_whitespace() {
            *count.entry(word.to_owned()).or_insert(0) += 1;
        }
    }
    Ok(count.into_iter().collect())
}

fn processes() -> io::Result<String> {
    let mut child = Command::new("/usr/bin/tr").args(["a-z", "A-Z"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().unwrap().write_all(b"through a process")?;
    let out = child.wait_with_output()?;
    Ok(format!("{} {}", String::from_utf8_lossy(&out.stdout), out.status))
}

fn sockets() -> io::Result<String> {
    let listener = net::TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let client = thread::spawn(move || net::TcpStream::connect(address)?.write_all(b"over a socket\n"));
    let mut line = String::new();
    BufReader::new(listener.accept()?.0).read_line(&mut line)?;
    client.join().unwrap()?;
    Ok(line.trim().to_owned())
}

fn main() {
    println!("threads {}", threads());
    println!("channel {:?}", channel().iter().sum::<usize>());
    println!("waiting {}", waiting());
    println!("processes {:?}", processes());
    println!("sockets {:?}", sockets());
    let lock = RwLock::new(1);
    let caught = panic::catch_unwind(|| {
        let _held = lock.write().unwrap();
        panic!("on purpose");
    });
    println!("panic {} {}", caught.is_err(), lock.is_poisoned());
    let deep = thread::Builder::new().stack_size(16 << 20).spawn(|| {
        fn depth(n: u32) -> u32 {
            if n == 0 { 0 } else { 1 + std::hint::black_box(depth(n - 1)) }
        }
        depth(100_000)
    });
    println!("depth {}", deep.unwrap().join().unwrap());
    if let Some(path) = env::args().nth(1) {
        match words(&path) {
            Ok(words) => println!("words {} {:?}", words.len(), words.iter().max_by_key(|(word, n)| (**n, *word))),
            Err(error) => println!("words: {error}"),
        }
    }
    std::process::exit(3);
}
