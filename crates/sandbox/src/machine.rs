//! What a checkpoint of a whole machine needs where it goes on: pure, so that the same facts give the same verdict
//! everywhere.

use serde::{Deserialize, Serialize};

/// How far the frequency of the counter may be from the recorded one, in parts of it: measuring is not exact.
const TSC_TOLERANCE: u64 = 1000;

/// What a saved machine is, and must find again. Durable: fields are only added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineNeeds {
    /// Which machine, `microvm` say.
    pub machine: String,
    pub processors: u32,
    pub memory_mib: u32,
    /// What runs the guest's instructions: `kvm` or `tcg`.
    pub accelerator: String,
    /// What the guest believes to run on.
    pub processor: String,
    /// What its processor can do that another one perhaps cannot; a translated one can always do the same.
    #[serde(default)]
    pub features: Vec<String>,
    /// The version of QEMU.
    pub qemu: String,
    /// The digest of the image that the guest booted from.
    pub image: String,
    /// The frequency that the guest counts its time by, if nobody tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tsc_khz: Option<u64>,
}

/// What a node has for saved machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineOffer {
    pub machines: Vec<String>,
    pub accelerator: String,
    pub processor: String,
    pub features: Vec<String>,
    pub qemu: String,
    /// The image that guests boot from here, if there is one.
    pub image: Option<String>,
    pub tsc_khz: Option<u64>,
}

/// What is needed and not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("clause `{clause}`: the checkpoint needs {needed}, here is {found}")]
pub struct Unmet {
    pub clause: String,
    pub needed: String,
    pub found: String,
}

impl Unmet {
    pub fn new(clause: &str, needed: impl ToString, found: impl ToString) -> Self {
        Self {
            clause: clause.to_owned(),
            needed: needed.to_string(),
            found: found.to_string(),
        }
    }
}

impl MachineNeeds {
    /// The first clause that the offer does not meet.
    pub fn unmet(&self, offer: &MachineOffer) -> Option<Unmet> {
        let differs = |clause, needed: &str, found: &str| {
            (needed != found).then(|| Unmet::new(clause, format!("`{needed}`"), format!("`{found}`")))
        };
        if !offer.machines.contains(&self.machine) {
            let needed = format!("a machine `{}`", self.machine);
            return Some(Unmet::new("machine", needed, offer.machines.join(", ")));
        }
        let image = offer.image.as_deref().unwrap_or("none");
        let features = || {
            let missing = self.features.iter().find(|feature| !offer.features.contains(feature))?;
            let needed = format!("a processor with `{missing}`");
            Some(Unmet::new(
                "feature",
                needed,
                format!("`{}` without it", offer.processor),
            ))
        };
        let counter = || {
            let (needed, found) = (self.tsc_khz?, offer.tsc_khz.unwrap_or(0));
            let far = needed.abs_diff(found) > needed / TSC_TOLERANCE;
            far.then(|| Unmet::new("counter", format!("{needed} kHz"), format!("{found} kHz")))
        };
        differs("accelerator", &self.accelerator, &offer.accelerator)
            .or_else(features)
            .or_else(|| differs("processor", &self.processor, &offer.processor))
            .or_else(|| differs("qemu", &self.qemu, &offer.qemu))
            .or_else(|| differs("image", &self.image, image))
            .or_else(counter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer() -> MachineOffer {
        MachineOffer {
            machines: vec!["microvm".to_owned(), "q35".to_owned()],
            accelerator: "kvm".to_owned(),
            processor: "Some CPU".to_owned(),
            features: vec!["avx2".to_owned(), "sse".to_owned()],
            qemu: "7.2.22".to_owned(),
            image: Some("beef".to_owned()),
            tsc_khz: Some(2_600_100),
        }
    }

    #[test]
    fn the_clause_that_a_saved_machine_does_not_find_is_named() {
        let needs = MachineNeeds {
            machine: "microvm".to_owned(),
            processors: 1,
            memory_mib: 512,
            accelerator: "kvm".to_owned(),
            processor: "Some CPU".to_owned(),
            features: vec!["avx2".to_owned()],
            qemu: "7.2.22".to_owned(),
            image: "beef".to_owned(),
            tsc_khz: Some(2_600_000),
        };
        let clause = |change: fn(&mut MachineOffer)| {
            let mut offer = offer();
            change(&mut offer);
            needs.unmet(&offer).map(|unmet| unmet.clause)
        };
        assert_eq!(clause(|_| {}), None, "the control");
        let named = |change: fn(&mut MachineOffer)| clause(change).unwrap_or_default();
        assert_eq!(named(|offer| offer.machines = vec!["q35".to_owned()]), "machine");
        assert_eq!(named(|offer| offer.accelerator = "tcg".to_owned()), "accelerator");
        assert_eq!(named(|offer| offer.features = vec!["sse".to_owned()]), "feature");
        assert_eq!(named(|offer| offer.processor = "Other CPU".to_owned()), "processor");
        assert_eq!(named(|offer| offer.qemu = "8.0".to_owned()), "qemu");
        assert_eq!(named(|offer| offer.image = None), "image");
        assert_eq!(named(|offer| offer.tsc_khz = Some(2_700_000)), "counter");
        assert_eq!(named(|offer| offer.tsc_khz = None), "counter");
        let unmet = needs
            .unmet(&MachineOffer {
                features: vec![],
                ..offer()
            })
            .unwrap();
        assert_eq!(
            unmet.to_string(),
            "clause `feature`: the checkpoint needs a processor with `avx2`, here is `Some CPU` without it"
        );
    }
}
