// SPDX-License-Identifier: GPL-2.0

//! What the files of `/proc` about the machine say to a task: of its CPUs and memory, what the task has of them.

use std::fmt::Write as _;

use crate::errno::SysResult;
use crate::task::Task;

/// The files about the machine that are not passed on as they are.
pub(super) const FILES: [&str; 2] = ["cpuinfo", "meminfo"];

/// What a file about the machine says.
pub(super) fn text(task: &Task, name: &str) -> SysResult<Vec<u8>> {
    let text = std::fs::read_to_string(format!("/proc/{name}"))?;
    let text = match name {
        "cpuinfo" => cpuinfo(&text),
        "meminfo" if task.shared.memory_limit != 0 => {
            let charged = task.stats()?.charged;
            meminfo(&text, task.shared.memory_limit, charged)
        }
        _ => text,
    };
    Ok(text.into_bytes())
}

/// The flags of CPUs that a guest's CPUID has, by the names that Linux gives them: see the module's masks. Those
/// of the last line are not CPUID's, and true of any guest of such a CPU.
const FLAGS: &str = "\
    pni pclmulqdq ssse3 fma cx16 sse4_1 sse4_2 movbe popcnt aes xsave avx f16c rdrand \
    fpu tsc pae cx8 cmov clflush mmx fxsr sse sse2 ss \
    fsgsbase bmi1 avx2 bmi2 erms avx512f avx512dq rdseed adx avx512ifma clflushopt clwb avx512cd sha_ni avx512bw \
    avx512vl avx512vbmi umip avx512_vbmi2 gfni vaes vpclmulqdq avx512_vnni avx512_bitalg avx512_vpopcntdq rdpid \
    movdiri movdir64b fsrm avx512_vp2intersect serialize avx_vnni avx512_bf16 fzrm fsrs fsrc \
    xsaveopt xsavec xgetbv1 lahf_lm abm 3dnowprefetch syscall nx pdpe1gb rdtscp lm \
    constant_tsc nonstop_tsc rep_good nopl cpuid";

/// `cpuinfo` without what the guest's CPUID does not say.
fn cpuinfo(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        match name.trim() {
            "vmx flags" => {}
            "flags" => {
                let known = |flag: &&str| FLAGS.split_ascii_whitespace().any(|f| f == *flag);
                let flags: Vec<&str> = value.split_ascii_whitespace().filter(known).collect();
                result.push_str(name);
                result.push_str(": ");
                result.push_str(&flags.join(" "));
                result.push('\n');
            }
            _ => result.push_str(line),
        }
    }
    result
}

/// `meminfo` of a task that may have `limit` bytes and has `charged`.
fn meminfo(text: &str, limit: u64, charged: u64) -> String {
    let free = limit.saturating_sub(charged);
    let mut result = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let most = match name {
            "MemTotal" => limit,
            "MemFree" | "MemAvailable" => free,
            "SwapTotal" | "SwapFree" | "SwapCached" => 0,
            _ => {
                result.push_str(line);
                continue;
            }
        };
        let number = value.split_ascii_whitespace().next();
        let host: u64 = number.and_then(|n| n.parse().ok()).unwrap_or(u64::MAX);
        let colon = format!("{name}:");
        let kib = host.min(most / 1024);
        // Writing to a string cannot fail.
        let _ = writeln!(result, "{colon:<15} {kib:8} kB");
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_flags_are_left_out() {
        let text = "processor\t: 0\nflags\t\t: fpu vmx sse2 hypervisor amx_tile avx2\nvmx flags\t: x\nbugs\t\t: y\n";
        let shown = "processor\t: 0\nflags\t\t: fpu sse2 avx2\nbugs\t\t: y\n";
        assert_eq!(cpuinfo(text), shown);
    }

    #[test]
    fn no_more_memory_than_the_limit_is_told() {
        let text = "MemTotal:       16000000 kB\nMemFree:             100 kB\nSwapTotal:      5 kB\nCached: 7 kB\n";
        let shown = "MemTotal:          65536 kB\nMemFree:             100 kB\nSwapTotal:             0 kB\nCached: 7 kB\n";
        assert_eq!(meminfo(text, 64 << 20, 1 << 20), shown);
    }
}
