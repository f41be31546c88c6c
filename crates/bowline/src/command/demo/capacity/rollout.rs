//! A new version takes over while the function is called.

use serde_json::json;

use super::callers::Callers;
use super::{Account, FUNCTION, Part, Show};
use crate::client::function_path;

const ALIAS: &str = "live";
/// Answers of each version that are waited for.
const ANSWERS: u64 = 100;

pub(super) fn play(show: &Show, home: &Account) -> anyhow::Result<Part> {
    let post = |below: &str, body| home.client.post(&function_path(FUNCTION, below), &body);
    post("/versions", json!({}))?;
    post("/aliases", json!({"Name": ALIAS, "FunctionVersion": "1"}))?;
    // Each call is made once: an error is an error.
    let callers = Callers::start(&home.client, Some(ALIAS), 1);
    let answered = |version: &str| callers.tally().answers.get(version).copied().unwrap_or(0);
    show.until("version 1 answers nothing", || (answered("1") >= ANSWERS).then_some(()))?;
    home.deploy(show, "2")?;
    post("/versions", json!({}))?;
    let path = function_path(FUNCTION, &format!("/aliases/{ALIAS}"));
    home.client.put(&path, &json!({"FunctionVersion": "2"}))?;
    show.progress.say("the alias names version 2 now");
    show.until("version 2 answers nothing", || (answered("2") >= ANSWERS).then_some(()))?;
    // What had begun before is over by now: nothing but the new one answers.
    let old = answered("1");
    let so_far = answered("2");
    show.until("version 2 stopped answering", || {
        (answered("2") >= so_far + ANSWERS).then_some(())
    })?;
    let tally = callers.stop();
    let is_over = tally.answers.get("1") == Some(&old);
    let of = |version: &str| tally.answers.get(version).copied().unwrap_or(0);
    let mut seen = format!(
        "{} answers of version 1, then {} of version 2, {} errors, {} versions told wrongly",
        of("1"),
        of("2"),
        tally.failures,
        tally.untrue
    );
    if let Some(error) = tally.errors.first() {
        seen = format!("{seen} ({error})");
    }
    Ok(Part {
        name: "rollout",
        holds: tally.failures == 0 && tally.untrue == 0 && is_over,
        seen,
        facts: json!({
            "answers": tally.answers,
            "errors": tally.failures,
            "untrue": tally.untrue,
            "oldAnswersAfter": of("1") - old,
        }),
    })
}
