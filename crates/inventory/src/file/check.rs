//! What must hold of a file beyond its form.

use std::collections::BTreeSet;
use std::ops::Range;

use bowline_agent::service::Probe;
use toml::Spanned;

use super::{Health, ITEMS_MAX, InstanceFile, Kind, Overlay, Resources, Service, Volume};

/// Where a fault is, and what is wrong.
type Fault = (Range<usize>, String);

const NAME_BYTES_MAX: usize = 40;
const MEMORY_MIB: (u32, u32) = (64, 1024 * 1024);
const CPU_MILLIS: (u32, u32) = (50, 256_000);
const PROCESSES: (u32, u32) = (32, 1_000_000);
const NO_PORT: &str = "nothing listens at port 0: say another one";
const STORAGE_MIB: (u32, u32) = (0, 1024 * 1024 * 16);

pub(super) fn check(file: &InstanceFile) -> Result<(), Fault> {
    name(&file.id, "an instance's id")?;
    let Resources {
        memory_mib,
        cpu_millis,
        processes,
        storage_mib,
        machine,
    } = &file.resources;
    let machines = file.roles.values().map(|overlay| &overlay.resources.machine);
    for machine in machines.chain([machine]).flatten() {
        if *file.kind.get_ref() != Kind::Vm {
            let reason = "`machine` is for instances of kind `vm`".to_owned();
            return Err((machine.span(), reason));
        }
    }
    resources([Some(memory_mib), Some(cpu_millis), Some(processes), Some(storage_mib)])?;
    volumes(&file.volumes)?;
    services(&file.services)?;
    for (role, overlay) in &file.roles {
        name(role, "a role")?;
        let given = &overlay.resources;
        let given = [
            &given.memory_mib,
            &given.cpu_millis,
            &given.processes,
            &given.storage_mib,
        ];
        resources(given.map(Option::as_ref))?;
        volumes(&overlay.volumes)?;
        services(&overlay.services)?;
        together(file, role)?;
    }
    few(file.roles.len(), file.id.span(), "roles")?;
    schedule(file)?;
    policy(file)
}

/// Servers that wait belong to nobody: what has volumes or services cannot.
fn schedule(file: &InstanceFile) -> Result<(), Fault> {
    few(file.schedule.len(), file.id.span(), "windows of its schedule")?;
    for window in &file.schedule {
        window.read()?;
        if *file.kind.get_ref() == Kind::Inline {
            return fault(
                &window.servers,
                "a place inside the node is always there: no server waits for it".to_owned(),
            );
        }
        if file.effective(None).is_some_and(|effective| !effective.is_plain()) {
            let reason = "servers with volumes or services do not wait: these are an account's alone";
            return fault(&window.servers, reason.to_owned());
        }
    }
    Ok(())
}

/// A role's services and volumes count with those of the file that they do not replace.
fn together(file: &InstanceFile, role: &Spanned<String>) -> Result<(), Fault> {
    let Some(effective) = file.effective(Some(role.get_ref())) else {
        return Ok(());
    };
    few(effective.services.len(), role.span(), "services with those of the file")?;
    few(effective.volumes.len(), role.span(), "volumes with those of the file")?;
    few(effective.ports().count(), role.span(), "ports with those of the file")?;
    let mut taken = BTreeSet::new();
    match effective.ports().find(|(_, port)| !taken.insert(*port)) {
        Some((service, port)) => fault(
            role,
            format!("port {port} of service `{service}` is another one's already, with those of the file"),
        ),
        None => Ok(()),
    }
}

/// What a server inside the node cannot be held to: it shares the node's processors and processes.
pub(super) fn limits(file: &InstanceFile) -> Result<(), Fault> {
    if *file.kind.get_ref() != Kind::Inline {
        return Ok(());
    }
    let own = &file.resources;
    let mut named = vec![
        (Some(&own.cpu_millis), "cpu_millis"),
        (Some(&own.processes), "processes"),
        (Some(&own.storage_mib), "storage_mib"),
    ];
    for Overlay {
        cpu_millis,
        processes,
        storage_mib,
        ..
    } in file.roles.values().map(|role| &role.resources)
    {
        named.extend([
            (cpu_millis.as_ref(), "cpu_millis"),
            (processes.as_ref(), "processes"),
            (storage_mib.as_ref(), "storage_mib"),
        ]);
    }
    let mut said = named.into_iter().filter_map(|(given, what)| Some((given?, what)));
    // A value that was not said has no place.
    match said.find(|(given, _)| !given.span().is_empty()) {
        Some((given, what)) => fault(
            given,
            format!(
                "{what} is no limit of an inline instance, of which only memory_mib is enforced: leave it out, or choose kind = \"process\""
            ),
        ),
        None => Ok(()),
    }
}

fn resources(given: [Option<&Spanned<u32>>; 4]) -> Result<(), Fault> {
    let limits = [
        (MEMORY_MIB, "memory_mib"),
        (CPU_MILLIS, "cpu_millis"),
        (PROCESSES, "processes"),
        (STORAGE_MIB, "storage_mib"),
    ];
    for (given, (limits, what)) in given.into_iter().zip(limits) {
        if let Some(given) = given {
            within(given, limits, what)?;
        }
    }
    Ok(())
}

fn volumes(volumes: &[Volume]) -> Result<(), Fault> {
    let mut mounts = BTreeSet::new();
    for volume in volumes {
        few(volumes.len(), volume.source.span(), "volumes")?;
        name(&volume.source, "a volume's source")?;
        let mount = volume.mount.get_ref();
        let parts: Vec<&str> = mount.split('/').skip(1).collect();
        let plain = mount.starts_with('/')
            && parts
                .iter()
                .all(|part| !part.is_empty() && *part != "." && *part != "..");
        if !plain || mount.len() > 255 {
            return fault(
                &volume.mount,
                format!("`{mount}` is no mount point: expected an absolute path, `/data` say"),
            );
        }
        if ["proc", "sys", "dev"].contains(&parts[0]) {
            return fault(
                &volume.mount,
                format!("`{mount}` belongs to the system: mount the volume elsewhere"),
            );
        }
        if !mounts.insert(mount) {
            return fault(&volume.mount, format!("two volumes are mounted at `{mount}`"));
        }
    }
    Ok(())
}

fn services(services: &[Service]) -> Result<(), Fault> {
    let (mut names, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for service in services {
        few(services.len(), service.name.span(), "services")?;
        name(&service.name, "a service")?;
        if !names.insert(service.name.get_ref()) {
            return fault(
                &service.name,
                format!("two services are named `{}`", service.name.get_ref()),
            );
        }
        command(&service.command)?;
        environment(service)?;
        ports(service, &mut taken)?;
        if let Some(health) = &service.health {
            check_health(health)?;
        }
    }
    Ok(())
}

fn environment(service: &Service) -> Result<(), Fault> {
    for (variable, value) in &service.environment {
        let text = variable.get_ref();
        if text.is_empty() || text.contains(['=', '\0']) {
            return fault(
                variable,
                format!("{text:?} is no name of a variable: it is empty, or has `=` or a zero byte in it"),
            );
        }
        if value.get_ref().contains('\0') {
            return fault(value, format!("the value of `{text}` cannot hold a zero byte"));
        }
    }
    Ok(())
}

/// All services of a server share its address.
fn ports(service: &Service, taken: &mut BTreeSet<u16>) -> Result<(), Fault> {
    for port in &service.ports {
        let number = *port.get_ref();
        if number == 0 {
            return fault(port, NO_PORT.to_owned());
        }
        if !taken.insert(number) {
            return fault(
                port,
                format!("port {number} is named twice: all services of a server share its address"),
            );
        }
        few(taken.len(), port.span(), "ports")?;
    }
    Ok(())
}

fn check_health(health: &Health) -> Result<(), Fault> {
    if *health.check.get_ref() == Probe::Tcp(0) {
        return fault(&health.check, NO_PORT.to_owned());
    }
    if let Probe::Command(words) = health.check.get_ref() {
        let words = Spanned::new(health.check.span(), words.clone());
        command(&words)?;
    }
    within(&health.interval_ms, (50, 3_600_000), "interval_ms")?;
    within(&health.timeout_ms, (10, 3_600_000), "timeout_ms")?;
    within(&health.failures, (1, 1000), "failures")
}

fn command(command: &Spanned<Vec<String>>) -> Result<(), Fault> {
    let words = command.get_ref();
    if words.first().is_none_or(|program| !program.starts_with('/')) {
        return fault(
            command,
            "a command is a program's absolute path and its arguments".to_owned(),
        );
    }
    if words.iter().any(|word| word.contains('\0')) {
        return fault(command, "a command cannot hold a zero byte".to_owned());
    }
    Ok(())
}

fn policy(file: &InstanceFile) -> Result<(), Fault> {
    let policy = &file.policy;
    let limits = [
        (policy.boot_seconds, (1, 3600), "boot_seconds"),
        (policy.repair_attempts, (0, 100), "repair_attempts"),
        (policy.repair_seconds, (1, 3600), "repair_seconds"),
        (policy.replacements_max, (0, 1000), "replacements_max"),
        (policy.window_seconds, (1, 86_400), "window_seconds"),
        (policy.backoff_ms, (0, 3_600_000), "backoff_ms"),
    ];
    for (value, limits, what) in limits {
        // The table has no places of its values.
        within(&Spanned::new(file.id.span(), value), limits, what)?;
    }
    match policy.efficiency_min {
        Some(least) if !(0.0..=1.0).contains(&least) => {
            fault(&file.id, format!("efficiency_min must be from 0 to 1, not {least}"))
        }
        _ => Ok(()),
    }
}

fn within(given: &Spanned<u32>, (min, max): (u32, u32), what: &str) -> Result<(), Fault> {
    let value = *given.get_ref();
    if (min..=max).contains(&value) {
        return Ok(());
    }
    fault(given, format!("{what} must be from {min} to {max}, not {value}"))
}

fn few(count: usize, span: Range<usize>, what: &str) -> Result<(), Fault> {
    if count <= ITEMS_MAX {
        return Ok(());
    }
    Err((span, format!("{count} {what}; at most {ITEMS_MAX} are possible")))
}

fn name(given: &Spanned<String>, what: &str) -> Result<(), Fault> {
    if is_name(given.get_ref()) {
        return Ok(());
    }
    let reason = format!(
        "{what} is 1 to {NAME_BYTES_MAX} lower-case letters, digits and hyphens, with a letter first, not `{}`",
        given.get_ref()
    );
    fault(given, reason)
}

/// Whether a text may name an instance, a volume, a service or a role.
pub fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.len() <= NAME_BYTES_MAX
        && text.bytes().all(allowed)
}

fn fault<T>(at: &Spanned<T>, reason: String) -> Result<(), Fault> {
    Err((at.span(), reason))
}
