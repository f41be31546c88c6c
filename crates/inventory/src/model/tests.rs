//! Records as every build since format 1 writes them.

use super::*;

/// A record is written as it was by every build since format 1.
fn check<R: Record + PartialEq + std::fmt::Debug>(golden: &str) -> R {
    let bytes = format!(r#"{{"format":1,"record":{golden}}}"#);
    let record = R::decode(bytes.as_bytes()).expect(golden);
    assert_eq!(String::from_utf8_lossy(&record.encode()), bytes);
    record
}

const EFFECTIVE: &str = r#"{"kind":"process","memory_mib":256,"cpu_millis":500,"processes":64,"storage_mib":0,"volumes":[{"source":"orders","mount":"/data","mode":"rw"}],"services":[{"name":"s1","command":["/bin/true"],"environment":{},"health":{"probe":{"tcp":80},"interval_ms":5000,"timeout_ms":2000,"failures":3}}],"policy":{"boot_seconds":120,"repair_attempts":2,"repair_seconds":60,"replacements_max":3,"window_seconds":600,"backoff_ms":1000,"pin_revision":false,"efficiency_min":0.2}}"#;
const DIGEST: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn server(id: &str, state: &str) -> String {
    format!(
        r#"{{"id":"{id}","state":"{state}","since":7,"address":"127.64.0.1","revision":1,"digest":"{DIGEST}","effective":{EFFECTIVE},"replaces":null,"epoch":2,"repairs":1,"detail":"process 9"}}"#
    )
}

#[test]
fn an_instance_reads_as_it_was_written() {
    let old = server("00000000000000aa", "ACCESS_TERMINATED");
    let new = server("00000000000000bb", "SPINNING_UP");
    let instance: Instance = check(&format!(
        r#"{{"account":"000000000000","name":"shop","file":"shop","role":"web","node":"n1","created":5,"server":{old},"failure":{{"failure":"service","service":"s1","reason":"gone"}},"replacement":{{"failed":"00000000000000aa","reason":"not_repairable","step":"created","fenced_at":9,"digest_used":"{DIGEST}","new":{new},"attempts":1}},"replaced_at":[8],"hold":null,"draining":false,"removing":false,"next_event":4}}"#
    ));
    assert_eq!(instance.current().id, "00000000000000bb");
    assert_eq!(instance.shown_state(), "SPINNING_UP");
    let held = Instance {
        hold: Some(Hold::Storm { replacements: 3 }),
        ..instance
    };
    assert_eq!(held.shown_state(), "HELD");
}

#[test]
fn an_instance_that_is_one_too_many_reads_as_it_was_written() {
    let server = server("00000000000000aa", "RUNNING");
    let instance: Instance = check(&format!(
        r#"{{"account":"000000000000","name":"default-2","file":"default","role":null,"node":"n1","created":5,"server":{server},"failure":null,"replacement":null,"replaced_at":[],"hold":null,"draining":true,"surplus":true,"removing":false,"next_event":4}}"#
    ));
    assert!(instance.surplus);
}

#[test]
fn an_instance_of_a_fleet_reads_as_it_was_written() {
    let server = server("00000000000000aa", "RUNNING").replace(
        "\"efficiency_min\":0.2}}",
        "\"efficiency_min\":0.2},\"fleet\":\"high\"}",
    );
    let instance: Instance = check(&format!(
        r#"{{"account":"000000000000","name":"shop","file":"shop","role":null,"node":"n1","created":5,"server":{server},"failure":null,"replacement":null,"replaced_at":[],"hold":null,"draining":false,"removing":false,"next_event":4}}"#
    ));
    assert_eq!(
        instance.server.effective.fleet,
        Some(bowline_capacity::fleet::Class::High)
    );
}

#[test]
fn a_virtual_machine_reads_as_it_was_written() {
    let effective = EFFECTIVE.replace("\"process\"", "\"vm\"");
    let effective = effective.replace("\"environment\":{}", "\"environment\":{},\"ports\":[80,443]");
    let effective = effective.replace(
        "\"efficiency_min\":0.2}}",
        "\"efficiency_min\":0.2},\"machine\":\"q35\"}",
    );
    let machine = format!(
        r#"{{"kind":"q35","processors":1,"accelerator":"tcg","why_not_kvm":"there is no `/dev/kvm`","golden":"{DIGEST}","golden_was_kept":true,"ready_ms":90,"process":9}}"#
    );
    let server = format!(
        r#"{{"id":"00000000000000aa","state":"RUNNING","since":7,"address":null,"revision":1,"digest":"{DIGEST}","effective":{effective},"replaces":null,"epoch":2,"repairs":1,"detail":null,"machine":{machine}}}"#
    );
    let instance: Instance = check(&format!(
        r#"{{"account":"000000000000","name":"shop","file":"shop","role":null,"node":"n1","created":5,"server":{server},"failure":null,"replacement":null,"replaced_at":[],"hold":null,"draining":false,"removing":false,"next_event":4}}"#
    ));
    let machine = instance.server.machine.expect("it has one");
    assert_eq!((machine.process, machine.accelerator), (9, Accelerator::Tcg));
}

#[test]
fn the_other_records_read_as_they_were_written() {
    check::<FileRecord>(&format!(
        r#"{{"account":"000000000000","id":"shop","revision":3,"digest":"{DIGEST}","text":"id","at":1}}"#
    ));
    check::<Event>(r#"{"number":3,"what":"fence","server":"00000000000000aa","detail":null,"at":1}"#);
    check::<Assignment>(
        r#"{"server":"00000000000000aa","instance":"shop","role":"web","address":"127.64.0.1","from":1,"to":null}"#,
    );
    check::<CostIndication>(
        r#"{"role":"web","server":null,"price":0.25,"currency":"EUR","per_unit":"vcpu","per_time":"hour","at":1}"#,
    );
    check::<TokenRecord>(&format!(r#"{{"request":"{DIGEST}","name":"shop","at":1}}"#));
    check::<Claim>(r#"{"server":"00000000000000aa"}"#);
    check::<FleetsRecord>(
        r#"{"account":"000000000000","criteria":{"window":{"bucket_seconds":10,"buckets":30},"promote_at":1.0,"demote_at":0.5,"dwell_min":{"secs":120,"nanos":0},"idle_max":{"secs":60,"nanos":0}}}"#,
    );
    let usage: UsageRecord = check(
        r#"{"account":"000000000000","function":"f","version":"$LATEST","usage":{"counts":{"latest":[[100,7],[102,900]],"total":907},"class":"high","class_since":5,"changes":1}}"#,
    );
    assert_eq!(usage.usage.class(), bowline_capacity::fleet::Class::High);
    check::<AuditRow>(
        r#"{"account":"000000000000","request_id":"r","action":"CreateInstance","subject":"s","before":null,"after":null,"at":1}"#,
    );
}
