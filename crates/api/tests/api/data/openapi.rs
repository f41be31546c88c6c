//! The OpenAPI document tells the truth about real answers.

use bytes::Bytes;
use serde_json::{Value, json};

use super::streams::node;
use crate::harness::{Answer, TestNode, request};

/// The part of JSON Schema that the document uses; fields that a schema does not have are errors.
struct Schemas(Value);

impl Schemas {
    async fn of(node: &TestNode) -> Self {
        let answer = node.get("/v1/openapi.json").await;
        assert_eq!(answer.status, 200);
        Self(answer.json())
    }

    /// Checks an answer against what the document says of this operation.
    fn check(&self, (method, template): (&str, &str), answer: &Answer) -> Result<(), String> {
        let responses = &self.0["paths"][template][method]["responses"];
        let status = answer.status.to_string();
        let response = responses.get(&status).or_else(|| responses.get("default"));
        let response = response.ok_or_else(|| format!("{method} {template} has no {status}"))?;
        if answer.body.is_empty() {
            return response
                .get("content")
                .map_or(Ok(()), |_| Err("an empty body".to_owned()));
        }
        let media = answer.header("content-type").unwrap_or_default();
        let schema = &response["content"][media]["schema"];
        let value: Value = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
        self.fits(schema, &value)
            .map_err(|error| format!("{method} {template}: {error} in {value}"))
    }

    fn fits(&self, schema: &Value, value: &Value) -> Result<(), String> {
        let mut known = Vec::new();
        self.walk(schema, value, &mut known)?;
        let foreign = value.as_object().into_iter().flat_map(|fields| fields.keys());
        match foreign.into_iter().find(|field| !known.contains(*field)) {
            Some(field) => Err(format!("field `{field}` is not in the schema")),
            None => Ok(()),
        }
    }

    fn walk(&self, schema: &Value, value: &Value, known: &mut Vec<String>) -> Result<(), String> {
        if let Some(name) = schema["$ref"].as_str() {
            let target = self
                .0
                .pointer(name.trim_start_matches('#'))
                .ok_or(format!("no {name}"))?;
            return self.walk(target, value, known);
        }
        for part in schema["allOf"].as_array().into_iter().flatten() {
            self.walk(part, value, known)?;
        }
        if let Some(parts) = schema["oneOf"].as_array() {
            let fitting = parts.iter().filter(|part| self.fits(part, value).is_ok()).count();
            return if fitting == 1 {
                Ok(())
            } else {
                Err(format!("{fitting} alternatives fit {value}"))
            };
        }
        if schema.get("type").is_none() && schema.get("allOf").is_none() {
            return Err(format!("a schema without a type: {schema}"));
        }
        check_type(&schema["type"], value)?;
        if let Some(values) = schema["enum"].as_array()
            && !values.contains(value)
        {
            return Err(format!("{value} is none of {values:?}"));
        }
        for item in value.as_array().into_iter().flatten() {
            self.fits(&schema["items"], item)?;
        }
        for field in schema["required"].as_array().into_iter().flatten() {
            value
                .get(field.as_str().unwrap_or_default())
                .ok_or(format!("no {field}"))?;
        }
        for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
            known.push(field.clone());
            if let Some(value) = value.get(field) {
                self.fits(schema, value)?;
            }
        }
        Ok(())
    }
}

fn check_type(wanted: &Value, value: &Value) -> Result<(), String> {
    let is = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        _ => false,
    };
    let fits = match wanted {
        Value::Null => true,
        Value::String(name) => is(name),
        Value::Array(names) => names.iter().filter_map(Value::as_str).any(is),
        _ => false,
    };
    if fits {
        Ok(())
    } else {
        Err(format!("{value} is no {wanted}"))
    }
}

/// A node whose answers are held against its document.
struct Checked<'a> {
    node: &'a TestNode,
    schemas: Schemas,
}

impl Checked<'_> {
    /// Sends a request of the operation `method template` and checks its answer.
    async fn send(&self, operation: (&str, &str), path: &str, body: Value) -> Value {
        let bytes = if body.is_null() {
            Bytes::new()
        } else {
            body.to_string().into()
        };
        let headers = [("content-type", "application/json")];
        let request = request(&operation.0.to_uppercase(), path, &headers, bytes);
        let answer = self.node.send(request).await;
        self.schemas.check(operation, &answer).expect("the document is right");
        serde_json::from_slice(&answer.body).unwrap_or_default()
    }

    async fn streams(&self) {
        let (one, events) = ("/v1/streams/{stream}", "/v1/streams/{stream}/events");
        for _made_then_refused in 0..2 {
            self.send(("post", "/v1/streams"), "/v1/streams", json!({ "name": "bills" }))
                .await;
        }
        self.send(("get", "/v1/streams"), "/v1/streams?limit=1", Value::Null)
            .await;
        let body = json!({ "events": [{ "key": "k", "body": "a" }, { "body_base64": "/w==" }] });
        self.send(("post", events), "/v1/streams/orders/events", body).await;
        self.send(("get", events), "/v1/streams/orders/events", Value::Null)
            .await;
        self.send(("get", one), "/v1/streams/orders", Value::Null).await;
        self.send(("get", one), "/v1/streams/nothing", Value::Null).await;
        let body = json!({ "retention": { "bytes_max": 9 }, "chains_max": 8 });
        self.send(("patch", one), "/v1/streams/bills", body).await;
        for _deleted_then_refused in 0..2 {
            self.send(("delete", one), "/v1/streams/bills", Value::Null).await;
        }
    }

    async fn sessions(&self) {
        let body = json!({ "stream": "orders" });
        let made = self.send(("post", "/v1/sessions"), "/v1/sessions", body).await;
        let session = made["session"].as_str().expect("an identifier");
        let mut token = String::new();
        for (method, below, body) in [
            ("post", "/batches", json!({ "limit": 1 })),
            ("get", "", Value::Null),
            ("post", "/batches/{token}/extend", json!({ "lease_ms": 5000 })),
            ("post", "/batches/{token}/nack", json!({ "park": true })),
            ("post", "/batches/{token}/ack", json!({})),
            ("get", "/parked", Value::Null),
            ("post", "/parked/redrive", json!({})),
            ("post", "/parked/drop", json!({})),
            ("post", "/seek", json!({ "to": "oldest" })),
        ] {
            let template = format!("/v1/sessions/{{session}}{below}");
            let path = template.replace("{session}", session).replace("{token}", &token);
            let answer = self.send((method, &template), &path, body).await;
            token = answer["token"].as_str().map_or(token, str::to_owned);
        }
        self.send(("get", "/v1/sessions"), "/v1/sessions?stream=orders", Value::Null)
            .await;
    }

    async fn objects(&self) {
        let (one, events) = ("/v1/objects/{object}", "/v1/objects/{object}/events");
        let body = json!({ "body": "b", "indexes": [{ "index": "i", "key": "k" }] });
        let made = self.send(("post", "/v1/objects"), "/v1/objects", body).await;
        let object = format!("/v1/objects/{}", made["object"].as_str().expect("an identifier"));
        self.send(("get", one), &object, Value::Null).await;
        self.send(("put", one), &object, json!({ "body": "c" })).await;
        self.send(("get", "/v1/objects"), "/v1/objects?index=i", Value::Null)
            .await;
        self.send(("get", events), &format!("{object}/events"), Value::Null)
            .await;
        self.send(("delete", one), &object, Value::Null).await;
        self.send(("get", "/v1/stores"), "/v1/stores", Value::Null).await;
    }
}

#[tokio::test]
async fn real_answers_are_as_the_document_says() {
    let node = node().await;
    let checked = Checked {
        node: &node,
        schemas: Schemas::of(&node).await,
    };
    checked.streams().await;
    checked.sessions().await;
    checked.objects().await;
    node.stop().await;
}

#[tokio::test]
async fn a_wrong_answer_would_be_found() {
    let node = node().await;
    let schemas = Schemas::of(&node).await;
    let good = node.get("/v1/streams/orders").await;
    let operation = ("get", "/v1/streams/{stream}");
    assert_eq!(schemas.check(operation, &good), Ok(()));
    let spoiled = |spoil: &dyn Fn(&mut Value)| {
        let mut value = good.json();
        spoil(&mut value);
        let answer = Answer {
            status: good.status,
            headers: good.headers.clone(),
            body: value.to_string().into(),
        };
        schemas.check(operation, &answer).is_err()
    };
    assert!(spoiled(&|value| value["colour"] = json!("red")), "a field too many");
    assert!(spoiled(&|value| value["events"] = json!("3")), "another type");
    assert!(
        spoiled(&|value| value["chains"][0]["state"] = Value::Null),
        "deep inside"
    );
    assert!(
        spoiled(&|value| {
            value.as_object_mut().expect("fields").remove("stream");
        }),
        "a field too few"
    );
    node.stop().await;
}
