//! What the limits and the neighbours of this process have cost it: the throttling of its container, and
//! the pressure on CPUs and disks.
//!
//! Reading these files may take locks of the kernel that others hold (`cgroup_rstat_flush`,
//! `psi_show`): not for the sampler.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Control groups above that of the process that are looked at: a limit may be set at any of them.
const MAX_LEVELS: usize = 16;
/// Bytes of a file that are read.
const MAX_BYTES: u64 = 16 << 10;

/// Since the container was made, or the machine was started; what is not known is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strain {
    /// Time in ns in which the container was not run because it had used up its share.
    pub throttled_ns: Option<u64>,
    /// Time in ns in which something that was ready waited for a CPU.
    pub cpu_pressure_ns: Option<u64>,
    /// Time in ns in which something waited for a disk.
    pub io_pressure_ns: Option<u64>,
    /// Whether the pressures are those of the container, rather than of the machine.
    pub is_of_container: bool,
}

impl Strain {
    /// What the kernel says now.
    #[must_use]
    pub fn read() -> Self {
        Self::read_below(Path::new("/"))
    }

    fn read_below(root: &Path) -> Self {
        let group = text_of(&root.join("proc/self/cgroup"))
            .and_then(|text| own_group(&text).map(str::to_owned));
        let mut strain = Self::default();
        let mut pressure_at = root.join("proc/pressure");
        if let Some(group) = group {
            let mounted = ["sys/fs/cgroup/unified", "sys/fs/cgroup"].map(|place| root.join(place));
            let is_unified = |place: &&PathBuf| is_there(&place.join("cgroup.controllers"));
            if let Some(hierarchy) = mounted.iter().find(is_unified) {
                let mut level = hierarchy.join(group.trim_start_matches('/'));
                if is_there(&level.join("cpu.pressure")) {
                    strain.is_of_container = true;
                    pressure_at.clone_from(&level);
                }
                for _ in 0..MAX_LEVELS {
                    let throttled_ns =
                        text_of(&level.join("cpu.stat")).and_then(|text| throttled_ns(&text));
                    strain.throttled_ns = strain.throttled_ns.max(throttled_ns);
                    if level == *hierarchy || !level.pop() {
                        break;
                    }
                }
            }
        }
        let pressure = |resource: &str| {
            let suffix = if strain.is_of_container {
                ".pressure"
            } else {
                ""
            };
            let text = text_of(&pressure_at.join(format!("{resource}{suffix}")))?;
            stalled_ns(&text)
        };
        (strain.cpu_pressure_ns, strain.io_pressure_ns) = (pressure("cpu"), pressure("io"));
        strain
    }

    /// What is known, by name.
    #[must_use]
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let [cpu, io] = if self.is_of_container {
            ["container_cpu_pressure_ns", "container_io_pressure_ns"]
        } else {
            ["machine_cpu_pressure_ns", "machine_io_pressure_ns"]
        };
        let all = [
            ("container_throttled_ns", self.throttled_ns),
            (cpu, self.cpu_pressure_ns),
            (io, self.io_pressure_ns),
        ];
        let known = all.into_iter().filter_map(|(name, ns)| Some((name, ns?)));
        known.collect()
    }

    /// What has been added since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let more = |now: Option<u64>, before: Option<u64>| Some(now?.saturating_sub(before?));
        Self {
            throttled_ns: more(self.throttled_ns, earlier.throttled_ns),
            cpu_pressure_ns: more(self.cpu_pressure_ns, earlier.cpu_pressure_ns),
            io_pressure_ns: more(self.io_pressure_ns, earlier.io_pressure_ns),
            is_of_container: self.is_of_container,
        }
    }
}

/// Not by `Path::exists`, which makes a system call that an interpreter does not make, statx.
fn is_there(path: &Path) -> bool {
    File::open(path).is_ok()
}

/// Not by `read_to_string` of a path, which asks for the file's size first, by statx.
fn text_of(path: &Path) -> Option<String> {
    let mut text = String::new();
    let file = File::open(path).ok()?;
    file.take(MAX_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The path of this process in the unified hierarchy (Linux, `Documentation/admin-guide/cgroup-v2.rst`).
fn own_group(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

/// `throttled_usec` of `cpu.stat`, which a group without a limit may have as well.
fn throttled_ns(text: &str) -> Option<u64> {
    let word = text
        .lines()
        .find_map(|line| line.strip_prefix("throttled_usec "))?;
    Some(word.trim().parse::<u64>().ok()?.saturating_mul(1_000))
}

/// The total of the line `some` (Linux, `Documentation/accounting/psi.rst`), which is in us.
fn stalled_ns(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with("some "))?;
    let word = line
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix("total="))?;
    Some(word.parse::<u64>().ok()?.saturating_mul(1_000))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::{Strain, own_group, stalled_ns, throttled_ns};

    const PRESSURE: &str = "some avg10=97.56 avg60=97.07 avg300=91.52 total=825656058\n\
                            full avg10=0.00 avg60=0.00 avg300=0.00 total=17\n";

    #[test]
    fn what_the_kernel_writes() {
        assert_eq!(own_group("9:cpu:/old\n0::/app/web\n"), Some("/app/web"));
        assert_eq!(own_group("9:cpu:/old\n"), None);
        let stat = "usage_usec 8\nnr_periods 600\nnr_throttled 13\nthrottled_usec 1250000\n";
        assert_eq!(throttled_ns(stat), Some(1_250_000_000));
        assert_eq!(throttled_ns("usage_usec 8\n"), None);
        assert_eq!(stalled_ns(PRESSURE), Some(825_656_058_000));
        assert_eq!(stalled_ns("full total=4\n"), None);
    }

    #[test]
    fn a_limit_at_any_level_counts_and_the_pressure_of_the_nearest_group() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("proc/self/cgroup", "0::/pod/web\n");
        write("proc/pressure/cpu", "some total=5\n");
        write("proc/pressure/io", "some total=6\n");
        // No unified hierarchy: only the pressure of the machine is known.
        let strain = Strain::read_below(root.path());
        assert_eq!(strain.throttled_ns, None);
        assert_eq!(strain.cpu_pressure_ns, Some(5_000));
        assert_eq!(strain.io_pressure_ns, Some(6_000));
        assert!(!strain.is_of_container);
        write("sys/fs/cgroup/cgroup.controllers", "cpu io\n");
        write("sys/fs/cgroup/pod/cpu.stat", "throttled_usec 40\n");
        write("sys/fs/cgroup/pod/web/cpu.stat", "throttled_usec 0\n");
        write("sys/fs/cgroup/pod/web/cpu.pressure", PRESSURE);
        let strain = Strain::read_below(root.path());
        assert_eq!(strain.throttled_ns, Some(40_000));
        assert_eq!(strain.cpu_pressure_ns, Some(825_656_058_000));
        assert_eq!(strain.io_pressure_ns, None);
        assert!(strain.is_of_container);
        assert_eq!(
            strain.counters(),
            [
                ("container_throttled_ns", 40_000),
                ("container_cpu_pressure_ns", 825_656_058_000),
            ]
        );
        let earlier = Strain {
            throttled_ns: Some(15_000),
            ..Strain::default()
        };
        let added = strain.since(&earlier);
        assert_eq!(
            (added.throttled_ns, added.cpu_pressure_ns),
            (Some(25_000), None)
        );
    }
}
