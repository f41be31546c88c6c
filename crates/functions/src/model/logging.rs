//! `LoggingConfig`, which is kept as the wire has it.

use bowline_sandbox::{ApplicationLogLevel, LogFormat, Logging, SystemLogLevel};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::Error;

/// The wire's name of the setting.
pub(crate) const LOGGING_CONFIG: &str = "LoggingConfig";

const LEVELS: [&str; 2] = ["ApplicationLogLevel", "SystemLogLevel"];

/// What a version's settings say of its log. Levels beside text, which older records may hold, say nothing.
pub(crate) fn of(settings: &Map<String, Value>) -> Logging {
    let Some(Value::Object(config)) = settings.get(LOGGING_CONFIG) else {
        return Logging::default();
    };
    let format = match config.get("LogFormat").and_then(Value::as_str) {
        Some("JSON") => LogFormat::Json {
            application: level::<ApplicationLogLevel>(config, LEVELS[0]),
            system: level::<SystemLogLevel>(config, LEVELS[1]),
        },
        _ => LogFormat::Text,
    };
    Logging {
        format,
        group: config.get("LogGroup").and_then(Value::as_str).map(str::to_owned),
    }
}

fn level<T: DeserializeOwned + Default>(config: &Map<String, Value>, name: &str) -> T {
    let known = config
        .get(name)
        .and_then(|level| serde_json::from_value(level.clone()).ok());
    known.unwrap_or_default()
}

/// Puts the members that are given over those that are kept. JSON asked for anew has the service's levels.
pub(crate) fn merge(kept: Option<&Value>, given: &Value) -> Result<Value, Error> {
    let members = |value: Option<&Value>| value.and_then(Value::as_object).cloned().unwrap_or_default();
    let given = members(Some(given));
    let mut whole = members(kept);
    if given.contains_key("LogFormat") {
        LEVELS.iter().for_each(|name| drop(whole.remove(*name)));
    }
    let asks_for_level = LEVELS.iter().any(|name| given.contains_key(*name));
    whole.extend(given);
    if whole.get("LogFormat").is_some_and(|format| format == "JSON") {
        for name in LEVELS {
            whole.entry(name).or_insert_with(|| "INFO".into());
        }
    } else if asks_for_level {
        return Err(Error::InvalidParameter(
            "LogLevel is not supported when LogFormat is set to \"Text\". Remove LogLevel from your request or change \
             the LogFormat to \"Json\" and try again."
                .to_owned(),
        ));
    }
    Ok(whole.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(kept: Value, given: Value, expected: Option<Value>) {
        let merged = merge(Some(&kept), &given);
        assert_eq!(merged.ok(), expected, "{kept} and {given}");
    }

    #[test]
    fn what_is_given_goes_over_what_is_kept() {
        let json_format = json!({"LogFormat": "JSON", "ApplicationLogLevel": "ERROR", "SystemLogLevel": "WARN"});
        let defaults = json!({"LogFormat": "JSON", "ApplicationLogLevel": "INFO", "SystemLogLevel": "INFO"});
        check(json!({}), json!({"LogFormat": "JSON"}), Some(defaults.clone()));
        check(json_format.clone(), json!({"LogFormat": "JSON"}), Some(defaults));
        check(
            json_format.clone(),
            json!({"SystemLogLevel": "DEBUG"}),
            Some(json!({"LogFormat": "JSON", "ApplicationLogLevel": "ERROR", "SystemLogLevel": "DEBUG"})),
        );
        check(
            json_format.clone(),
            json!({"LogFormat": "Text"}),
            Some(json!({"LogFormat": "Text"})),
        );
        check(
            json!({"LogGroup": "a"}),
            json!({"LogGroup": "b"}),
            Some(json!({"LogGroup": "b"})),
        );
        check(json!({}), json!({"SystemLogLevel": "INFO"}), None);
        check(
            json_format,
            json!({"LogFormat": "Text", "ApplicationLogLevel": "INFO"}),
            None,
        );
    }

    #[test]
    fn settings_say_how_to_log() {
        let read = |config: Value| of(&Map::from_iter([(LOGGING_CONFIG.to_owned(), config)]));
        assert_eq!(of(&Map::new()), Logging::default());
        assert_eq!(
            read(json!({"LogFormat": "JSON", "SystemLogLevel": "WARN", "LogGroup": "g"})),
            Logging {
                format: LogFormat::Json {
                    application: ApplicationLogLevel::Info,
                    system: SystemLogLevel::Warn,
                },
                group: Some("g".to_owned()),
            }
        );
        // As older records may have it.
        assert_eq!(
            read(json!({"LogFormat": "Text", "ApplicationLogLevel": "ERROR"})),
            Logging::default()
        );
    }
}
