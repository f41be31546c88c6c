//! What a server in a role is to be: the file with the role's overlay laid over it.

use bowline_agent::service::{HealthSpec, ServiceSpec};
use bowline_capacity::fleet::Class;
use bowline_sandbox_vm::MachineKind;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::{InstanceFile, Kind, Mode, Policy, Role, Service, Volume};

/// The configuration of one server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Effective {
    pub kind: Kind,
    pub memory_mib: u32,
    pub cpu_millis: u32,
    pub processes: u32,
    pub storage_mib: u32,
    pub volumes: Vec<EffectiveVolume>,
    /// In the order in which they start.
    pub services: Vec<ServiceSpec>,
    pub policy: Policy,
    /// Which machine it is, if it is a virtual one and the file says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineKind>,
    /// Which of its account's fleets it is in, if the file says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<Class>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EffectiveVolume {
    pub source: String,
    pub mount: String,
    pub mode: Mode,
}

impl Effective {
    /// Whether it has an address of its own. The services of a process listen there by themselves; for those of a virtual
    /// machine the node does, at the ports that are named.
    pub(crate) fn has_address(&self) -> bool {
        match self.kind {
            Kind::Inline => false,
            Kind::Process => !self.services.is_empty(),
            Kind::Vm => self.ports().next().is_some(),
        }
    }

    /// Each port that is named, with its service.
    pub fn ports(&self) -> impl Iterator<Item = (&str, u16)> {
        let services = self.services.iter();
        services.flat_map(|service| service.ports.iter().map(|port| (service.name.as_str(), *port)))
    }

    /// Whether such a server has nothing of its own before it is anybody's. Volumes are mounted when it is made; what
    /// services print is looked for under the name of the server that they belong to.
    pub(crate) fn is_plain(&self) -> bool {
        self.volumes.is_empty() && self.services.is_empty()
    }
}

impl InstanceFile {
    /// What a server in `role` is to be; without a role, what the file says. `None` if it has no such role.
    pub fn effective(&self, role: Option<&str>) -> Option<Effective> {
        let none = Role::default();
        let overlay = match role {
            None => &none,
            Some(wanted) => {
                let found = self.roles.iter().find(|(name, _)| name.get_ref() == wanted);
                found.map(|(_, overlay)| overlay)?
            }
        };
        let over = |own: &Spanned<u32>, given: &Option<Spanned<u32>>| *given.as_ref().unwrap_or(own).get_ref();
        let (own, given) = (&self.resources, &overlay.resources);
        Some(Effective {
            kind: *self.kind.get_ref(),
            memory_mib: over(&own.memory_mib, &given.memory_mib),
            cpu_millis: over(&own.cpu_millis, &given.cpu_millis),
            processes: over(&own.processes, &given.processes),
            storage_mib: over(&own.storage_mib, &given.storage_mib),
            volumes: volumes(&self.volumes, &overlay.volumes),
            services: services(&self.services, &overlay.services),
            policy: self.policy.clone(),
            machine: given
                .machine
                .as_ref()
                .or(own.machine.as_ref())
                .map(|kind| *kind.get_ref()),
            fleet: self.fleet,
        })
    }
}

fn volumes(own: &[Volume], given: &[Volume]) -> Vec<EffectiveVolume> {
    let replaced = |volume: &&Volume| {
        given
            .iter()
            .all(|other| other.mount.get_ref() != volume.mount.get_ref())
    };
    let all = own.iter().filter(replaced).chain(given);
    let effective = |volume: &Volume| EffectiveVolume {
        source: volume.source.get_ref().clone(),
        mount: volume.mount.get_ref().clone(),
        mode: volume.mode,
    };
    all.map(effective).collect()
}

fn services(own: &[Service], given: &[Service]) -> Vec<ServiceSpec> {
    let same = |one: &Service, other: &Service| one.name.get_ref() == other.name.get_ref();
    let mut all: Vec<&Service> = own
        .iter()
        .map(|service| given.iter().find(|other| same(service, other)).unwrap_or(service))
        .collect();
    all.extend(
        given
            .iter()
            .filter(|service| !own.iter().any(|other| same(service, other))),
    );
    all.sort_by_key(|service| service.order);
    all.into_iter().map(spec).collect()
}

fn said((variable, value): (&Spanned<String>, &Spanned<String>)) -> (String, String) {
    (variable.get_ref().clone(), value.get_ref().clone())
}

fn spec(service: &Service) -> ServiceSpec {
    ServiceSpec {
        name: service.name.get_ref().clone(),
        command: service.command.get_ref().clone(),
        environment: service.environment.iter().map(said).collect(),
        ports: service.ports.iter().map(|port| *port.get_ref()).collect(),
        health: service.health.as_ref().map(|health| HealthSpec {
            probe: health.check.get_ref().clone(),
            interval_ms: (*health.interval_ms.get_ref()).into(),
            timeout_ms: (*health.timeout_ms.get_ref()).into(),
            failures: *health.failures.get_ref(),
        }),
    }
}
