//! Files that are good, and the places of what is wrong with others.

use bowline_capacity::fleet::Class;

use super::*;

const FILE: &str = r#"
id = "shop"
kind = "process"

[resources]
memory_mib = 256
cpu_millis = 500

[[volumes]]
source = "orders"
mount = "/data"

[[services]]
name = "second"
command = ["/bin/sleep", "1000"]
order = 2

[[services]]
name = "first"
command = ["/bin/sleep", "1000"]
order = 1
health = { check = { tcp = 8080 }, interval_ms = 100 }
environment = { GREETING = "ahoy" }
ports = [8080, 8081]

[roles.web.resources]
memory_mib = 512

[[roles.archive.services]]
name = "second"
command = ["/bin/sleep", "7"]
order = 3

[policy]
replacements_max = 5
"#;

#[test]
fn a_role_changes_what_it_says_and_nothing_else() {
    let file = InstanceFile::parse(FILE).unwrap();
    let plain = file.effective(None).unwrap();
    assert_eq!((plain.memory_mib, plain.cpu_millis), (256, 500));
    let names = |effective: &Effective| effective.services.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&plain), ["first", "second"]);
    assert_eq!(plain.policy.replacements_max, 5);
    assert_eq!(plain.services[0].health.as_ref().unwrap().failures, 3);
    let ports: Vec<_> = plain.ports().collect();
    assert_eq!(ports, [("first", 8080), ("first", 8081)]);

    let web = file.effective(Some("web")).unwrap();
    assert_eq!(
        web,
        Effective {
            memory_mib: 512,
            ..plain.clone()
        }
    );
    let archive = file.effective(Some("archive")).unwrap();
    assert_eq!(archive.services[1].command, ["/bin/sleep", "7"]);
    assert_eq!(archive.services[0], plain.services[0]);
    assert_eq!(file.effective(Some("clerk")), None);
}

#[test]
fn a_fleet_and_a_schedule_are_read_and_what_is_wrong_with_them_is_placed() {
    const PLAIN: &str = "id = \"shop\"\nkind = \"process\"\nfleet = \"high\"\n[resources]\nmemory_mib = 256\n";
    const WINDOW: &str = "[[schedule]]\ndays = [\"mon\"]\nfrom = \"08:00\"\nto = \"18:00\"\nservers = 2\n";
    let good = format!("{PLAIN}{WINDOW}");
    let file = InstanceFile::parse(&good).unwrap();
    assert_eq!(file.effective(None).unwrap().fleet, Some(Class::High));
    assert_eq!(file.schedules().len(), 1);
    let fault = |from: &str, to: &str| {
        let text = good.replacen(from, to, 1);
        assert_ne!(text, good);
        let error = InstanceFile::parse(&text).expect_err(to);
        ((error.line, error.column), error.reason)
    };
    for (from, to, place, says) in [
        ("\"high\"", "\"middle\"", (3, 9), "a fleet is `low`, `high`"),
        ("\"mon\"", "\"monday\"", (7, 9), "unknown variant"),
        ("\"08:00\"", "\"8\"", (8, 8), "no time of the day"),
        ("\"18:00\"", "\"08:00\"", (9, 6), "the same time"),
        ("servers = 2", "servers = 9", (10, 11), "from 1 to 4"),
        ("servers = 2", "zone = \"Here\"\nservers = 2", (10, 8), "no time zone"),
        ("servers = 2", "size = 2", (10, 1), "unknown field"),
        ("kind = \"process\"", "kind = \"inline\"", (10, 11), "inside the node"),
        (
            "[[schedule]]",
            "[[volumes]]\nsource = \"a\"\nmount = \"/a\"\n[[schedule]]",
            (13, 11),
            "do not wait",
        ),
    ] {
        let (found, reason) = fault(from, to);
        assert!(reason.contains(says), "{reason}");
        assert_eq!(found, place, "{reason}");
    }
}

#[test]
fn a_file_of_a_virtual_machine_names_it() {
    let text = FILE.replacen("\"process\"", "\"vm\"", 1);
    let plain = InstanceFile::parse(&text).unwrap().effective(None).unwrap();
    assert_eq!((plain.kind, plain.machine), (Kind::Vm, None));
    let text = text.replacen("cpu_millis = 500", "machine = \"microvm\"", 1);
    let text = text.replacen("memory_mib = 512", "machine = \"q35\"", 1);
    let file = InstanceFile::parse(&text).unwrap();
    let machine = |role| file.effective(role).unwrap().machine;
    assert_eq!(machine(None), Some(MachineKind::Microvm));
    assert_eq!(machine(Some("web")), Some(MachineKind::Q35));
    assert_eq!(machine(Some("archive")), Some(MachineKind::Microvm));
}

#[test]
fn a_fault_is_told_with_its_line_and_column() {
    let fault = |from: &str, to: &str| {
        let text = FILE.replacen(from, to, 1);
        assert_ne!(text, FILE, "`{from}` is in the file");
        let error = InstanceFile::parse(&text).expect_err(to);
        (error.line, error.column, error.reason)
    };
    let (line, column, reason) = fault("memory_mib = 256", "memory_mib = 3");
    assert_eq!((line, column), (6, 14));
    assert!(reason.contains("memory_mib must be from 64"), "{reason}");
    for (from, to, line, says) in [
        ("id = \"shop\"", "id = \"Shop\"", 2, "lower-case"),
        ("kind = \"process\"", "kind = \"barrel\"", 3, "unknown variant"),
        ("cpu_millis = 500", "cpus = 5", 7, "unknown field"),
        ("cpu_millis = 500", "cpu_millis = \"x\"", 7, "invalid type"),
        ("cpu_millis = 500", "machine = \"q35\"", 7, "kind `vm`"),
        ("memory_mib = 512", "machine = \"q35\"", 27, "kind `vm`"),
        ("mount = \"/data\"", "mount = \"data\"", 11, "mount point"),
        ("mount = \"/data\"", "mount = \"/proc/x\"", 11, "system"),
        ("mount = \"/data\"", "mount = \"/a/../b\"", 11, "mount point"),
        ("name = \"first\"", "name = \"second\"", 19, "two services"),
        ("[\"/bin/sleep\", \"1000\"]", "[]", 15, "absolute path"),
        ("tcp = 8080", "udp = 8080", 22, "unknown variant"),
        ("tcp = 8080", "tcp = 0", 22, "port 0"),
        ("GREETING", "\"GREE=TING\"", 23, "no name of a variable"),
        ("GREETING", "\"\"", 23, "no name of a variable"),
        ("\"ahoy\"", "\"a\\u0000hoy\"", 23, "zero byte"),
        ("[8080, 8081]", "[8080, 0]", 24, "port 0"),
        ("[8080, 8081]", "[8080, 65536]", 24, "65536"),
        ("[8080, 8081]", "[8080, 8080]", 24, "named twice"),
        ("order = 2", "ports = [8081]", 24, "named twice"),
        ("order = 3", "ports = [8081]", 29, "another one's already"),
        ("replacements_max = 5", "replacements_max = [", 0, ""),
    ] {
        let (at, _, reason) = fault(from, to);
        assert!(line == 0 || at == line, "`{to}`: line {at}: {reason}");
        assert!(reason.contains(says), "`{to}`: {reason}");
    }
    InstanceFile::parse(FILE).expect("the control: unchanged, it is good");
}

#[test]
fn a_file_is_bounded() {
    let comment = "#".repeat(FILE_BYTES_MAX + 1);
    assert!(InstanceFile::parse(&comment).unwrap_err().reason.contains("bytes"));
    let volumes: String = (0..65)
        .map(|n| format!("[[volumes]]\nsource = \"v{n}\"\nmount = \"/v{n}\"\n"))
        .collect();
    let text = format!("id = \"a\"\nkind = \"process\"\n[resources]\nmemory_mib = 64\n{volumes}");
    assert!(InstanceFile::parse(&text).unwrap_err().reason.contains("65 volumes"));
    let services = |from: u32, to: u32| -> String {
        let one = |n| format!("[[TABLE]]\nname = \"s{n}\"\ncommand = [\"/bin/true\"]\n");
        (from..to).map(one).collect()
    };
    let with_role = |own: u32, added: u32| {
        let own = services(0, own).replace("TABLE", "services");
        let added = services(100, 100 + added).replace("TABLE", "roles.web.services");
        let text = format!("id = \"a\"\nkind = \"process\"\n[resources]\nmemory_mib = 64\n{own}{added}");
        InstanceFile::parse(&text)
    };
    with_role(32, 32).expect("the control: as many as are possible");
    let refused = with_role(40, 25).unwrap_err();
    assert!(refused.reason.contains("65 services"), "{refused}");
    let with_ports = |own: u16, added: u16| {
        let text = FILE.replacen("[8080, 8081]", &format!("{:?}", (1..=own).collect::<Vec<_>>()), 1);
        let added: Vec<_> = (1000..1000 + added).collect();
        InstanceFile::parse(&text.replacen("order = 3", &format!("ports = {added:?}"), 1))
    };
    with_ports(32, 32).expect("the control: as many as are possible");
    for (own, added) in [(65, 0), (32, 33)] {
        let refused = with_ports(own, added).unwrap_err();
        assert!(refused.reason.contains("65 ports"), "{refused}");
    }
}

#[test]
fn an_inline_instance_cannot_name_limits_that_nothing_enforces() {
    let text = |kind: &str, rest: &str| format!("id = \"a\"\nkind = \"{kind}\"\n[resources]\nmemory_mib = 64\n{rest}");
    let check = |text: &str| InstanceFile::parse(text).unwrap().check_limits(text);
    for rest in [
        "cpu_millis = 1000",
        "processes = 1024",
        "storage_mib = 0",
        "[roles.web.resources]\ncpu_millis = 50",
    ] {
        let refused = check(&text("inline", rest)).expect_err(rest);
        assert_eq!(refused.line, 4 + rest.lines().count(), "{refused}");
        assert!(refused.reason.contains("no limit of an inline instance"), "{refused}");
        check(&text("process", rest)).expect("the control: a process is held to them");
    }
    check(&text("inline", "[roles.web.resources]\nmemory_mib = 128")).expect("memory is enforced");
}
