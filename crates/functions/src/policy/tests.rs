//! What policies say, and what is no policy.

use bowline_foundation::id::AccountId;

use super::*;

const ARN: &str = "arn:aws:lambda:us-east-1:000000000000:function:f";

fn partner() -> AccountId {
    "111122223333".parse().unwrap()
}

fn grant() -> Grant {
    Grant {
        statement_id: "s".to_owned(),
        action: "lambda:InvokeFunction".to_owned(),
        principal: "111122223333".to_owned(),
        ..Grant::default()
    }
}

fn ask<'a>(account: Option<&'a AccountId>, action: &'a str) -> Request<'a> {
    Request {
        action,
        resource: ARN,
        account,
        url: None,
    }
}

/// What a policy of one statement says to the partner's `InvokeFunction`.
#[track_caller]
fn check(statement: &str, expected: Decision) {
    let text = format!(r#"{{"Version":"2012-10-17","Statement":{statement}}}"#);
    let policy = Policy::parse(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(
        policy.decide(&ask(Some(&partner()), "InvokeFunction")),
        expected,
        "{text}"
    );
    assert_eq!(Policy::parse(&policy.document()).as_ref(), Ok(&policy));
}

/// A statement that allows all to all, with one member in the place of its own.
fn with(member: &str, value: &str) -> String {
    let mut members = vec![
        ("Effect", r#""Allow""#),
        ("Principal", r#""*""#),
        ("Action", r#""lambda:*""#),
        ("Resource", r#""*""#),
    ];
    members.retain(|(name, _)| *name != member);
    members.push((member, value));
    let members: Vec<_> = members
        .iter()
        .map(|(name, value)| format!(r#""{name}":{value}"#))
        .collect();
    format!("{{{}}}", members.join(","))
}

#[test]
fn a_grant_becomes_the_services_statement() {
    let statement = Grant {
        source_arn: Some("arn:aws:s3:::b".to_owned()),
        source_account: Some("111122223333".to_owned()),
        principal: "s3.amazonaws.com".to_owned(),
        ..grant()
    };
    assert_eq!(
        statement.statement(ARN).unwrap().document(),
        format!(
            r#"{{"Sid":"s","Effect":"Allow","Principal":{{"Service":"s3.amazonaws.com"}},"Action":"lambda:InvokeFunction","Resource":"{ARN}","Condition":{{"ArnLike":{{"AWS:SourceArn":"arn:aws:s3:::b"}},"StringEquals":{{"AWS:SourceAccount":"111122223333"}}}}}}"#
        )
    );
    let everybody = Grant {
        action: "lambda:InvokeFunctionUrl".to_owned(),
        principal: "*".to_owned(),
        url_auth: Some(UrlAuth::None),
        ..grant()
    };
    assert_eq!(
        everybody.statement(ARN).unwrap().document(),
        format!(
            r#"{{"Sid":"s","Effect":"Allow","Principal":"*","Action":"lambda:InvokeFunctionUrl","Resource":"{ARN}","Condition":{{"StringEquals":{{"lambda:FunctionUrlAuthType":"NONE"}}}}}}"#
        )
    );
}

#[test]
fn a_grant_is_checked() {
    type Edit = fn(&mut Grant);
    let bad: [(Edit, &str); 10] = [
        (|grant| grant.statement_id = "a b".to_owned(), "statementId"),
        (|grant| grant.statement_id = "x".repeat(101), "statementId"),
        (|grant| grant.action = "s3:GetObject".to_owned(), "action"),
        (|grant| grant.principal = "somebody".to_owned(), "principal was invalid"),
        (|grant| grant.source_arn = Some("bucket".to_owned()), "sourceArn"),
        (|grant| grant.source_account = Some("12".to_owned()), "sourceAccount"),
        (
            |grant| grant.event_source_token = Some("a b".to_owned()),
            "eventSourceToken",
        ),
        (|grant| grant.organization = Some("o-1".to_owned()), "principalOrgID"),
        (|grant| grant.url_auth = Some(UrlAuth::None), "InvokeFunctionUrl"),
        (
            |grant| {
                grant.action = "lambda:GetFunction".to_owned();
                grant.via_url = Some(true);
            },
            "InvokedViaFunctionUrl",
        ),
    ];
    assert!(grant().statement(ARN).is_ok());
    for (edit, why) in bad {
        let mut grant = grant();
        edit(&mut grant);
        let refused = grant.statement(ARN).expect_err(why).to_string();
        assert!(refused.contains(why), "{refused}");
    }
}

#[test]
fn a_grant_lets_in_whom_it_names_and_nobody_else() {
    let mut policy = Policy::empty();
    policy.statements.push(grant().statement(ARN).unwrap());
    let decide = |account: Option<&AccountId>, action| policy.decide(&ask(account, action));
    let other: AccountId = "444455556666".parse().unwrap();
    assert_eq!(decide(Some(&partner()), "InvokeFunction"), Decision::Allow);
    assert_eq!(decide(Some(&partner()), "GetFunction"), Decision::Silent);
    assert_eq!(decide(Some(&other), "InvokeFunction"), Decision::Silent);
    assert_eq!(decide(None, "InvokeFunction"), Decision::Silent);
    let elsewhere = Request {
        resource: "arn:aws:lambda:us-east-1:000000000000:function:f:live",
        ..ask(None, "InvokeFunction")
    };
    let elsewhere = Request {
        account: Some(&other),
        ..elsewhere
    };
    assert_eq!(policy.decide(&elsewhere), Decision::Silent);
}

#[test]
fn who_what_and_on_what_must_all_fit() {
    check(&with("Principal", r#""*""#), Decision::Allow);
    check(&with("Principal", r#"{"AWS":"*"}"#), Decision::Allow);
    check(
        &with("Principal", r#"{"AWS":["444455556666","111122223333"]}"#),
        Decision::Allow,
    );
    check(
        &with("Principal", r#"{"AWS":"arn:aws:iam::111122223333:root"}"#),
        Decision::Allow,
    );
    check(
        &with("Principal", r#"{"AWS":"arn:aws:iam::111122223333:user/u"}"#),
        Decision::Silent,
    );
    check(
        &with("Principal", r#"{"Service":"s3.amazonaws.com"}"#),
        Decision::Silent,
    );
    check(
        &with("Action", r#"["lambda:GetFunction","lambda:InvokeFunction"]"#),
        Decision::Allow,
    );
    check(&with("Action", r#""*""#), Decision::Allow);
    check(&with("Action", r#""lambda:GetFunction""#), Decision::Silent);
    check(&with("Resource", &format!(r#""{ARN}""#)), Decision::Allow);
    check(&with("Resource", r#""arn:aws:lambda:*:*:function:*""#), Decision::Allow);
    check(
        &with("Resource", r#""arn:aws:lambda:us-east-1:000000000000:function:g""#),
        Decision::Silent,
    );
    check(&with("Resource", r#""arn:aws:lambda:*:function:f""#), Decision::Silent);
}

#[test]
fn a_denial_wins_wherever_it_stands() {
    let (allow, deny) = (with("Effect", r#""Allow""#), with("Effect", r#""Deny""#));
    check(&format!("[{allow},{deny}]"), Decision::Deny);
    check(&format!("[{deny},{allow}]"), Decision::Deny);
    check(&deny, Decision::Deny);
    check(&allow, Decision::Allow);
}

#[test]
fn conditions_must_all_hold() {
    let check = |condition: &str, expected| check(&with("Condition", condition), expected);
    let (allow, silent) = (Decision::Allow, Decision::Silent);
    check("{}", allow);
    check(r#"{"StringEquals":{"aws:PrincipalAccount":"111122223333"}}"#, allow);
    check(
        r#"{"StringEquals":{"AWS:principalaccount":["1","111122223333"]}}"#,
        allow,
    );
    check(r#"{"StringEquals":{"aws:PrincipalAccount":"444455556666"}}"#, silent);
    check(r#"{"StringNotEquals":{"aws:PrincipalAccount":"444455556666"}}"#, allow);
    check(r#"{"StringLike":{"aws:PrincipalAccount":"1111*3?33"}}"#, allow);
    check(r#"{"StringNotLike":{"aws:PrincipalAccount":"1111*"}}"#, silent);
    check(
        r#"{"ArnLike":{"aws:PrincipalArn":"arn:aws:iam::111122223333:*"}}"#,
        allow,
    );
    check(r#"{"ArnNotLike":{"aws:PrincipalArn":"arn:aws:iam::*:root"}}"#, silent);
    check(r#"{"Bool":{"lambda:InvokedViaFunctionUrl":false}}"#, allow);
    check(r#"{"Bool":{"lambda:InvokedViaFunctionUrl":"true"}}"#, silent);
    // What a request does not have fits nothing, unless the operator says so.
    check(r#"{"ArnLike":{"AWS:SourceArn":"*"}}"#, silent);
    check(r#"{"StringEquals":{"aws:PrincipalOrgID":"o-1234567890"}}"#, silent);
    check(r#"{"StringNotEquals":{"aws:PrincipalOrgID":"o-1234567890"}}"#, allow);
    check(
        r#"{"StringEqualsIfExists":{"aws:PrincipalOrgID":"o-1234567890"}}"#,
        allow,
    );
    check(r#"{"Null":{"aws:PrincipalOrgID":"true"}}"#, allow);
    check(r#"{"Null":{"aws:PrincipalAccount":"true"}}"#, silent);
    check(
        r#"{"StringEquals":{"aws:PrincipalAccount":"111122223333","aws:PrincipalOrgID":"o-1234567890"}}"#,
        silent,
    );
}

#[test]
fn what_cannot_be_judged_is_refused() {
    let refuse = |text: &str, why: &str| {
        let refused = Policy::parse(text).expect_err(text).to_string();
        assert!(refused.contains(why), "{refused}");
    };
    let statement = |statement: &str| format!(r#"{{"Version":"2012-10-17","Statement":{statement}}}"#);
    refuse("", "not a policy document");
    refuse("[]", "not a policy document");
    refuse(&statement("[]"), "no statement");
    refuse(r#"{"Version":"2020-01-01","Statement":[]}"#, "Version");
    refuse(&statement(&with("NotAction", r#""*""#)), "NotAction");
    refuse(&statement(&with("Effect", r#""Maybe""#)), "Maybe");
    refuse(&statement(&with("Principal", r#""somebody""#)), "somebody");
    refuse(&statement(&with("Principal", r#"{"AWS":"somebody"}"#)), "somebody");
    refuse(&statement(&with("Principal", r#"{"Federated":"x"}"#)), "Federated");
    refuse(&statement(&with("Principal", "{}")), "nobody");
    refuse(&statement(&with("Action", r#""s3:GetObject""#)), "Action");
    refuse(&statement(&with("Action", "[]")), "no action");
    refuse(
        &statement(&with("Condition", r#"{"IpAddress":{"aws:SourceIp":"::1"}}"#)),
        "IpAddress",
    );
    let twice = r#"{"StringEquals":{"a":"1"},"StringEquals":{"b":"1"}}"#;
    refuse(&statement(&with("Condition", twice)), "twice");
    let twice = r#"{"StringEquals":{"a":"1","a":"2"}}"#;
    refuse(&statement(&with("Condition", twice)), "twice");
    let sid = with("Sid", r#""s""#);
    refuse(&statement(&format!("[{sid},{sid}]")), "more than one");
    refuse(&" ".repeat(POLICY_BYTES_MAX + 1), "bytes");
}

#[test]
fn wildcards_stand_for_what_they_should() {
    for (pattern, text, fits) in [
        ("", "", true),
        ("*", "", true),
        ("a*c", "abbbc", true),
        ("a*c", "abbb", false),
        ("a?c", "abc", true),
        ("a?c", "ac", false),
        ("*ab*ab", "abxab", true),
        ("*ab*ab", "ab", false),
        ("a", "ab", false),
    ] {
        assert_eq!(words::like(pattern, text), fits, "{pattern} {text}");
    }
    assert!(words::arn_like("*", ARN));
    assert!(words::arn_like("arn:aws:lambda:us-*:*:function:?", ARN));
    assert!(!words::arn_like("arn:*", ARN));
    assert!(!words::arn_like("arn:aws:lambda:*:*", ARN));
}
