//! Which kernel modules a guest needs, in the order in which they need each other.

use std::collections::{BTreeMap, BTreeSet};

use super::BuildError;

/// What the initial file system loads: the buses of both machines, the devices, the root's file system, and that of folders
/// which the node is asked for.
const WANTED: &[&str] = &[
    "virtio_mmio",
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "virtio_rng",
    "virtio_balloon",
    "crc32c_generic",
    "erofs",
    "fuse",
];

/// The modules of a kernel package, by name, and the names of those built into the kernel.
#[derive(Default)]
pub struct Modules {
    pub files: BTreeMap<String, Vec<u8>>,
    pub built_in: BTreeSet<String>,
}

impl Modules {
    /// What is wanted and what that needs, in order.
    pub fn wanted(&self) -> Result<Vec<(String, Vec<u8>)>, BuildError> {
        let mut order = Vec::new();
        for name in WANTED {
            self.add(name, &mut BTreeSet::new(), &mut order)?;
        }
        Ok(order
            .iter()
            .map(|name| (name.clone(), self.files[name].clone()))
            .collect())
    }

    /// Adds a module after what it needs; `open` are those that wait for it.
    fn add(&self, name: &str, open: &mut BTreeSet<String>, order: &mut Vec<String>) -> Result<(), BuildError> {
        // Newer kernels have it built in under another name.
        let dispensable = name == "crc32c_generic";
        if order.iter().any(|known| known == name) || self.built_in.contains(name) {
            return Ok(());
        }
        let Some(module) = self.files.get(name) else {
            if dispensable {
                return Ok(());
            }
            return Err(BuildError::Kernel(format!("it has no module `{name}`")));
        };
        if !open.insert(name.to_owned()) {
            return Err(BuildError::Kernel(format!("its module `{name}` needs itself")));
        }
        for needed in depends(module) {
            self.add(&needed, open, order)?;
        }
        open.remove(name);
        order.push(name.to_owned());
        Ok(())
    }
}

/// The name of the module in a file, as the kernel spells it; none if the file is no module.
pub fn name_of(file: &str) -> Option<String> {
    let (stem, _) = file.rsplit('/').next()?.split_once(".ko")?;
    Some(stem.replace('-', "_"))
}

/// The modules that a module says it depends on.
fn depends(module: &[u8]) -> Vec<String> {
    const FIELD: &[u8] = b"\0depends=";
    let Some(at) = module.windows(FIELD.len()).position(|window| window == FIELD) else {
        return Vec::new();
    };
    let value = module[at + FIELD.len()..]
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default();
    let names = String::from_utf8_lossy(value).into_owned();
    let names = names.split(',').filter(|name| !name.is_empty());
    names.map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(needs: &str) -> Vec<u8> {
        format!("ELF\0license=GPL\0depends={needs}\0name=x\0").into_bytes()
    }

    #[test]
    fn modules_that_need_each_other_are_refused() {
        let mut modules = Modules::default();
        modules
            .built_in
            .extend(WANTED.iter().skip(1).map(|name| (*name).to_owned()));
        for (name, needs) in [("virtio_mmio", "a,b"), ("a", "b,c"), ("b", "c"), ("c", "")] {
            modules.files.insert(name.to_owned(), module(needs));
        }
        let order: Vec<String> = modules.wanted().unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(order, ["c", "b", "a", "virtio_mmio"]);
        modules.files.insert("c".to_owned(), module("a"));
        let refused = modules.wanted().unwrap_err();
        assert!(matches!(refused, BuildError::Kernel(_)), "{refused}");
        assert!(refused.to_string().contains("`a` needs itself"), "{refused}");
    }

    #[test]
    fn modules_come_after_what_they_need() {
        let mut modules = Modules::default();
        for (name, needs) in [
            ("virtio_mmio", "virtio,virtio_ring"),
            ("virtio", ""),
            ("virtio_ring", "virtio"),
            ("virtio_pci", "virtio-ring"),
            ("virtio_blk", "virtio"),
            ("virtio_console", "virtio"),
            ("virtio_rng", "virtio"),
            ("erofs", "libcrc32c"),
            ("libcrc32c", ""),
            ("fuse", ""),
        ] {
            modules.files.insert(name.to_owned(), module(needs));
        }
        let missing = modules.wanted().unwrap_err().to_string();
        assert!(missing.contains("virtio_balloon"), "{missing}");
        modules.built_in.insert("virtio_balloon".to_owned());
        let order: Vec<String> = modules.wanted().unwrap().into_iter().map(|(name, _)| name).collect();
        let expected = [
            "virtio",
            "virtio_ring",
            "virtio_mmio",
            "virtio_pci",
            "virtio_blk",
            "virtio_console",
            "virtio_rng",
            "libcrc32c",
            "erofs",
            "fuse",
        ];
        assert_eq!(order, expected);
        assert_eq!(
            name_of("kernel/drivers/char/virtio-rng.ko.xz").as_deref(),
            Some("virtio_rng")
        );
        assert_eq!(name_of("modules.builtin"), None);
    }
}
