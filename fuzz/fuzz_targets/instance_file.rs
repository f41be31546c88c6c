//! Files of instances: a fault has a place in the file, and what is taken keeps to every bound, in each of its roles.
#![no_main]

use bowline_agent::service::Probe;
use bowline_inventory::file::{Effective, FILE_BYTES_MAX, FileError, ITEMS_MAX, InstanceFile, Kind, is_name};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let file = match InstanceFile::parse(text) {
        Ok(file) => file,
        Err(error) => return placed(&error, text),
    };
    assert!(text.len() <= FILE_BYTES_MAX);
    assert!(is_name(file.id.get_ref()));
    if let Err(error) = file.check_limits(text) {
        assert_eq!(*file.kind.get_ref(), Kind::Inline);
        placed(&error, text);
    }
    let roles = file.role_names();
    assert!(roles.len() <= ITEMS_MAX);
    for role in std::iter::once(None).chain(roles.into_iter().map(Some)) {
        let effective = file.effective(role).expect("the file has the role");
        bounded(&effective);
        assert!(effective.machine.is_none() || effective.kind == Kind::Vm);
        kept(effective);
    }
});

fn placed(error: &FileError, text: &str) {
    assert!(!error.reason.is_empty());
    let mut lines = text.split('\n');
    let line = lines.nth(error.line - 1).expect("the fault's line is in the file");
    assert!((1..=line.chars().count() + 1).contains(&error.column));
}

fn bounded(effective: &Effective) {
    assert!((64..=1024 * 1024).contains(&effective.memory_mib));
    assert!((50..=256_000).contains(&effective.cpu_millis));
    assert!((32..=1_000_000).contains(&effective.processes));
    assert!(effective.storage_mib <= 16 * 1024 * 1024);
    assert!(effective.services.len() <= ITEMS_MAX && effective.volumes.len() <= ITEMS_MAX);
    let mut mounts: Vec<&str> = effective.volumes.iter().map(|volume| volume.mount.as_str()).collect();
    mounts.sort_unstable();
    mounts.dedup();
    assert_eq!(mounts.len(), effective.volumes.len(), "one volume at a place");
    for mount in mounts {
        assert!(mount.starts_with('/') && !mount.split('/').any(|part| part == ".."));
    }
    let mut ports: Vec<u16> = effective.ports().map(|(_, port)| port).collect();
    assert!(ports.len() <= ITEMS_MAX && !ports.contains(&0));
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), effective.ports().count(), "one service at a port");
    for service in &effective.services {
        assert!(is_name(&service.name), "it names a file");
        assert!(service.command[0].starts_with('/'));
        assert!(service.environment.keys().all(|name| !name.contains(['=', '\0'])));
        if let Some(health) = &service.health {
            assert!(health.interval_ms >= 50 && health.timeout_ms >= 10 && health.failures >= 1);
            assert_ne!(health.probe, Probe::Tcp(0));
        }
    }
}

/// A server's record holds what it was made from.
fn kept(mut effective: Effective) {
    // Its last digit may be another one afterwards.
    if let Some(least) = effective.policy.efficiency_min.take() {
        assert!((0.0..=1.0).contains(&least));
    }
    let text = serde_json::to_string(&effective).expect("it can be written");
    assert_eq!(
        serde_json::from_str::<Effective>(&text).expect("it can be read"),
        effective
    );
}
