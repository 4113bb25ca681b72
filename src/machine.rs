//! What this machine has: instruction sets and memory.

use corolla_domain::fit::{Backend as Described, Card, Features, Machine};
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

use crate::backend::Backend;

/// Memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    /// What the system has.
    pub(crate) total: u64,
    /// What can be had without swapping.
    pub(crate) available: u64,
    /// What the control group allows this process, and what it has taken of that; `None` where it sets no limit.
    pub(crate) group: Option<Group>,
}

/// The bounds of a control group, such as a container's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Group {
    /// Most bytes.
    pub(crate) limit: u64,
    /// Bytes taken, without cached files: those make room when it is needed.
    pub(crate) taken: u64,
}

impl Memory {
    /// What a model may take.
    pub(crate) fn free(&self) -> u64 {
        let of_group = self.group.map(|group| group.limit.saturating_sub(group.taken));
        self.available.min(of_group.unwrap_or(u64::MAX))
    }
}

/// Memory now.
///
/// # Errors
/// A sentence where the system does not tell.
pub(crate) fn memory() -> Result<Memory, String> {
    let unknown = |fault| format!("the system does not tell how much memory is free: {fault}");
    let mut system = System::new().map_err(unknown)?;
    system.refresh_memory();
    let own = sysinfo::get_current_pid().map_err(unknown)?;
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[own]), false, ProcessRefreshKind::nothing());
    let limits = system.process(own).and_then(sysinfo::Process::cgroup_limits);
    let group = limits.map(|limits| Group { limit: limits.total_memory, taken: limits.rss });
    Ok(Memory { total: system.total_memory(), available: system.available_memory(), group })
}

/// The most memory that this process has had, in bytes; `None` where the system does not tell.
pub(crate) fn peak_resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib * 1024)
}

/// How many threads a model computes with: as many as `asked` says, or as affinity and control groups leave.
pub(crate) fn threads(asked: Option<usize>) -> usize {
    asked.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// What this machine is called in its network; empty where it has no name.
pub(crate) fn name() -> String {
    System::host_name().unwrap_or_default()
}

/// Instruction sets of this processor, as far as kernels ask for them.
pub(crate) fn features() -> Features {
    #[cfg(target_arch = "x86_64")]
    {
        let found = [
            ("avx512f", is_x86_feature_detected!("avx512f")),
            ("avx512bw", is_x86_feature_detected!("avx512bw")),
            ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
            ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
            ("avx2", is_x86_feature_detected!("avx2")),
            ("fma", is_x86_feature_detected!("fma")),
            ("f16c", is_x86_feature_detected!("f16c")),
        ];
        Features(found.into_iter().filter_map(|(name, there)| there.then_some(name)).collect())
    }
    #[cfg(not(target_arch = "x86_64"))]
    Features::default()
}

/// A machine with that memory and those backends.
pub(crate) fn machine(
    features: &Features,
    memory: &Memory,
    usable: impl Fn(Backend) -> Result<Vec<Card>, String>,
) -> Machine {
    let describe = |backend: Backend| Described {
        name: backend.name(),
        place: backend.place(),
        dtypes: backend.dtypes(),
        kv_types: backend.kv_types(),
        automatic: backend.automatic(),
        screens: backend.screens(),
        widens: backend.widens(),
        usable: usable(backend),
    };
    Machine {
        features: features.clone(),
        free: memory.free(),
        backends: Backend::ALL.into_iter().map(describe).collect(),
    }
}

#[cfg(test)]
mod tests {
    use corolla_domain::fit;

    use super::*;

    #[test]
    fn a_container_has_what_its_group_allows() {
        let memory = Memory { total: 64, available: 40, group: None };
        assert_eq!(memory.free(), 40);
        assert_eq!(Memory { group: Some(Group { limit: 16, taken: 3 }), ..memory }.free(), 13);
        assert_eq!(Memory { group: Some(Group { limit: 60, taken: 3 }), ..memory }.free(), 40);
        assert_eq!(Memory { group: Some(Group { limit: 2, taken: 3 }), ..memory }.free(), 0);
    }

    /// The rule and the adapter must mean the same by a set of kernels.
    #[test]
    fn the_kernels_that_the_rule_allows_are_those_that_the_adapter_has() {
        let able = fit::Kernels::ALL.into_iter().filter(|kernels| features().run(*kernels));
        assert_eq!(able.map(fit::Kernels::name).collect::<Vec<_>>(), corolla_candle::kernel_sets());
    }

    #[test]
    fn this_machine_has_some_memory() {
        let memory = memory().unwrap();
        assert!(memory.free() > 1 << 20 && memory.free() <= memory.total, "{memory:?}");
    }
}
