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

#[tokio::test]
async fn real_answers_are_as_the_document_says() {
    let node = node().await;
    let schemas = Schemas::of(&node).await;
    let check = async |operation: (&str, &str), path: &str, body: Value| {
        let bytes = if body.is_null() {
            Bytes::new()
        } else {
            body.to_string().into()
        };
        let headers = [("content-type", "application/json")];
        let answer = node
            .send(request(&operation.0.to_uppercase(), path, &headers, bytes))
            .await;
        schemas.check(operation, &answer).expect("the document is right");
        serde_json::from_slice::<Value>(&answer.body).unwrap_or_default()
    };
    check(("post", "/v1/streams"), "/v1/streams", json!({ "name": "bills" })).await;
    check(("post", "/v1/streams"), "/v1/streams", json!({ "name": "bills" })).await;
    check(("get", "/v1/streams"), "/v1/streams?limit=1", Value::Null).await;
    let events = json!({ "events": [{ "key": "k", "body": "a" }, { "body_base64": "/w==" }] });
    let path = "/v1/streams/orders/events";
    check(("post", "/v1/streams/{stream}/events"), path, events).await;
    check(("get", "/v1/streams/{stream}/events"), path, Value::Null).await;
    check(("get", "/v1/streams/{stream}"), "/v1/streams/orders", Value::Null).await;
    check(("get", "/v1/streams/{stream}"), "/v1/streams/nothing", Value::Null).await;
    let made = check(("post", "/v1/sessions"), "/v1/sessions", json!({ "stream": "orders" })).await;
    let session = format!("/v1/sessions/{}", made["session"].as_str().expect("an identifier"));
    let batches = ("post", "/v1/sessions/{session}/batches");
    let batch = check(batches, &format!("{session}/batches"), json!({ "limit": 1 })).await;
    let token = batch["token"].as_str().expect("a token");
    check(("get", "/v1/sessions/{session}"), &session, Value::Null).await;
    let extend = ("post", "/v1/sessions/{session}/batches/{token}/extend");
    check(
        extend,
        &format!("{session}/batches/{token}/extend"),
        json!({ "lease_ms": 5000 }),
    )
    .await;
    let nack = ("post", "/v1/sessions/{session}/batches/{token}/nack");
    check(
        nack,
        &format!("{session}/batches/{token}/nack"),
        json!({ "park": true }),
    )
    .await;
    check(
        ("get", "/v1/sessions/{session}/parked"),
        &format!("{session}/parked"),
        Value::Null,
    )
    .await;
    let redrive = ("post", "/v1/sessions/{session}/parked/redrive");
    check(redrive, &format!("{session}/parked/redrive"), json!({})).await;
    check(
        ("post", "/v1/sessions/{session}/seek"),
        &format!("{session}/seek"),
        json!({ "to": "oldest" }),
    )
    .await;
    check(("get", "/v1/sessions"), "/v1/sessions?stream=orders", Value::Null).await;
    let object = json!({ "body": "b", "indexes": [{ "index": "i", "key": "k" }] });
    let made = check(("post", "/v1/objects"), "/v1/objects", object).await;
    let object = format!("/v1/objects/{}", made["object"].as_str().expect("an identifier"));
    check(("get", "/v1/objects/{object}"), &object, Value::Null).await;
    check(("put", "/v1/objects/{object}"), &object, json!({ "body": "c" })).await;
    check(("get", "/v1/objects"), "/v1/objects?index=i", Value::Null).await;
    check(
        ("get", "/v1/objects/{object}/events"),
        &format!("{object}/events"),
        Value::Null,
    )
    .await;
    check(("delete", "/v1/objects/{object}"), &object, Value::Null).await;
    check(("get", "/v1/stores"), "/v1/stores", Value::Null).await;
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
