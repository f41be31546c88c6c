//! How AWS tools name a stream, and where an outcome can go.
//!
//! A stream `NAME` is an event source as `arn:aws:kinesis:REGION:ACCOUNT:stream/NAME` or
//! `arn:bowline:stream:REGION:ACCOUNT:NAME`. As a destination it may also be called a queue or a topic:
//! `arn:aws:sqs:REGION:ACCOUNT:NAME`, `arn:aws:sns:REGION:ACCOUNT:NAME`. On a node that was told where queues are,
//! an SQS ARN names a queue there instead; where it was told of buckets, `arn:aws:s3:::NAME` is one.

use bowline_foundation::id::AccountId;

use crate::error::Error;
use crate::name::FunctionRef;

/// Fewest chains of a stream; any number will do to judge a name.
const CHAINS_MIN: u32 = 2;
/// Longest ARN of a destination.
const ARN_CHARS_MAX: usize = 350;
/// Streams whose names begin so belong to the platform.
pub(crate) const INTERNAL: &str = "bowline.";
/// The one of them that everybody may read.
pub(crate) const AUDIT_STREAM: &str = "bowline.audit";

/// Where a record of an outcome goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Function(FunctionRef),
    /// A stream's name.
    Stream(String),
    Queue(QueueName),
    /// A bucket's name.
    Bucket(String),
}

/// Which services the node was told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Beside {
    pub queues: bool,
    pub buckets: bool,
}

/// What a destination is for, which decides what it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// An event's success: no bucket.
    Success,
    /// An event's failure.
    Failure,
    /// An event itself: neither function nor bucket.
    DeadLetter,
    /// A batch's place: no function.
    LostBatch,
}

impl Target {
    /// Reads a destination's ARN.
    pub fn parse(arn: &str, purpose: Purpose, caller: &AccountId, beside: Beside) -> Result<Self, Error> {
        Self::read(arn, purpose, caller, beside).map_err(|refusal| match refusal {
            Refusal::Function(error) => error,
            Refusal::Because(why) => {
                Error::InvalidParameter(format!("The provided destination ARN {arn} is invalid: {why}."))
            }
        })
    }

    fn read(arn: &str, purpose: Purpose, caller: &AccountId, beside: Beside) -> Result<Self, Refusal> {
        if arn.len() > ARN_CHARS_MAX {
            return Err("it is too long".into());
        }
        let parts: Vec<&str> = arn.splitn(6, ':').collect();
        let ["arn", partition, service, _region, account, resource] = parts[..] else {
            return Err("it is not an ARN".into());
        };
        if (partition, service) != ("bowline", "stream") && !partition.starts_with("aws") {
            return Err("its partition is unknown".into());
        }
        if service == "s3" {
            return bucket(resource, purpose, beside);
        }
        let Ok(account) = account.parse::<AccountId>() else {
            return Err("it is not an ARN with an account".into());
        };
        let name = match service {
            "lambda" => return function(arn, purpose, caller),
            "sqs" if beside.queues => return queue(account, resource),
            "kinesis" => resource.strip_prefix("stream/").ok_or("it names no stream")?,
            "stream" if partition == "bowline" => resource,
            "sqs" | "sns" => resource,
            _ => {
                return Err(
                    "a destination on this node is a function, a queue, a bucket, or a stream named by a Kinesis, SQS, \
                     SNS or Bowline ARN"
                        .into(),
                );
            }
        };
        check_name(name)?;
        Ok(Self::Stream(name.to_owned()))
    }
}

/// Why an ARN is no destination.
enum Refusal {
    /// What is wrong with a function's name.
    Function(Error),
    Because(String),
}

impl From<&str> for Refusal {
    fn from(why: &str) -> Self {
        Self::Because(why.to_owned())
    }
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self::Because(why)
    }
}

fn function(arn: &str, purpose: Purpose, caller: &AccountId) -> Result<Target, Refusal> {
    match purpose {
        Purpose::DeadLetter => Err("a function cannot be a dead-letter target".into()),
        Purpose::LostBatch => Err("a function cannot be told of a batch that failed".into()),
        Purpose::Success | Purpose::Failure => FunctionRef::parse(arn, None, caller)
            .map(Target::Function)
            .map_err(|error| Refusal::Function(error.into())),
    }
}

fn queue(account: AccountId, name: &str) -> Result<Target, Refusal> {
    let queue = QueueName {
        account,
        name: name.to_owned(),
    };
    if !is_queue_name(name) {
        return Err("a queue's name is 1 to 80 letters, digits, hyphens and underscores".into());
    }
    if queue.is_ordered() {
        return Err("a FIFO queue takes no records; name a standard queue".into());
    }
    Ok(Target::Queue(queue))
}

/// Whether a destination's ARN names a bucket.
pub(crate) fn is_bucket(arn: &str) -> bool {
    arn.split(':').nth(2) == Some("s3")
}

/// What to do where an ARN names something of a service that this node was not told of; another node may have been.
pub(super) fn unknown_service(arn: &str, beside: Beside) -> Option<&'static str> {
    match arn.split(':').nth(2) {
        Some("s3") if !beside.buckets => {
            Some("this node was told of no buckets; start it with --s3-endpoint http://HOST:PORT")
        }
        Some("sqs") if !beside.queues => {
            Some("this node was told of no queues; start it with --sqs-endpoint http://HOST:PORT")
        }
        _ => None,
    }
}

fn bucket(name: &str, purpose: Purpose, beside: Beside) -> Result<Target, Refusal> {
    match purpose {
        Purpose::Success => return Err("a bucket can be told of failures only".into()),
        Purpose::DeadLetter => {
            return Err("a bucket cannot be a dead-letter target; name it as an OnFailure destination".into());
        }
        Purpose::Failure | Purpose::LostBatch => {}
    }
    if !beside.buckets {
        return Err(
            "this node was told of no buckets; start it with --s3-endpoint http://HOST:PORT, or name a function, a queue \
             or a stream"
                .into(),
        );
    }
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    if !(3..=63).contains(&name.len()) || !name.bytes().all(allowed) {
        return Err("a bucket is named as arn:aws:s3:::NAME, without a key".into());
    }
    Ok(Target::Bucket(name.to_owned()))
}

/// What an event source's ARN means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A stream of this node, by its name.
    Stream(String),
    /// A queue at the endpoint that the node is configured with.
    Queue(QueueName),
}

/// A queue by its owner and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct QueueName {
    pub account: AccountId,
    pub name: String,
}

impl QueueName {
    /// Whether it keeps the order of its messages.
    pub fn is_ordered(&self) -> bool {
        self.name.ends_with(".fifo")
    }
}

/// Reads an event source's ARN.
pub(crate) fn source(arn: &str) -> Result<Source, Error> {
    let unrecognised = || {
        Error::InvalidParameter(format!(
            "Unrecognized event source, must be kinesis, sqs: `{arn}`. An event source is a stream of this node, \
             arn:aws:kinesis:REGION:ACCOUNT:stream/NAME or arn:bowline:stream:REGION:ACCOUNT:NAME, or a queue, \
             arn:aws:sqs:REGION:ACCOUNT:NAME."
        ))
    };
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let ["arn", partition, service, _region, account, resource] = parts[..] else {
        return Err(unrecognised());
    };
    let account: AccountId = account.parse().map_err(|_| unrecognised())?;
    let name = match (partition, service) {
        ("bowline", "stream") => resource,
        (partition, "kinesis") if partition.starts_with("aws") => {
            resource.strip_prefix("stream/").ok_or_else(unrecognised)?
        }
        (partition, "sqs") if partition.starts_with("aws") && is_queue_name(resource) => {
            return Ok(Source::Queue(QueueName {
                account,
                name: resource.to_owned(),
            }));
        }
        _ => return Err(unrecognised()),
    };
    if name != AUDIT_STREAM {
        check_name(name)
            .map_err(|why| Error::InvalidParameter(format!("The event source ARN {arn} is invalid: {why}.")))?;
    }
    Ok(Source::Stream(name.to_owned()))
}

/// 1 to 80 letters, digits, hyphens and underscores, `.fifo` at the end permitted.
fn is_queue_name(name: &str) -> bool {
    let stem = name.strip_suffix(".fifo").unwrap_or(name);
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !stem.is_empty() && name.len() <= 80 && stem.bytes().all(allowed)
}

fn check_name(name: &str) -> Result<(), String> {
    if name.starts_with(INTERNAL) {
        return Err(format!("stream `{name}` belongs to the platform"));
    }
    bowline_stream::StreamId::new(name, CHAINS_MIN)
        .map(drop)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYTHING: Beside = Beside {
        queues: true,
        buckets: true,
    };
    const PURPOSES: [Purpose; 4] = [
        Purpose::Success,
        Purpose::Failure,
        Purpose::DeadLetter,
        Purpose::LostBatch,
    ];

    fn target_beside(arn: &str, purpose: Purpose, beside: Beside) -> Result<Target, String> {
        Target::parse(arn, purpose, &AccountId::default_account(), beside).map_err(|error| error.to_string())
    }

    fn target(arn: &str, purpose: Purpose) -> Result<Target, String> {
        target_beside(arn, purpose, Beside::default())
    }

    #[test]
    fn streams_go_by_the_names_of_queues_topics_and_streams() {
        for arn in [
            "arn:aws:kinesis:eu-central-1:000000000000:stream/orders",
            "arn:aws:sqs:eu-central-1:000000000000:orders",
            "arn:aws:sns:eu-central-1:000000000000:orders",
            "arn:bowline:stream:eu-central-1:000000000000:orders",
            "arn:bowline:stream::000000000000:orders",
        ] {
            for purpose in PURPOSES {
                assert_eq!(target(arn, purpose), Ok(Target::Stream("orders".to_owned())), "{arn}");
            }
        }
    }

    #[test]
    fn a_function_takes_outcomes_but_no_dead_letters() {
        let arn = "arn:aws:lambda:eu-central-1:000000000000:function:f:live";
        for (purpose, takes) in PURPOSES.into_iter().zip([true, true, false, false]) {
            let found = target(arn, purpose);
            assert_eq!(matches!(found, Ok(Target::Function(_))), takes, "{found:?}");
        }
    }

    #[test]
    fn where_queues_are_known_their_names_are_theirs() {
        let arn = "arn:aws:sqs:eu-central-1:123456789012:jobs_1";
        let queue = Target::Queue(QueueName {
            account: "123456789012".parse().unwrap(),
            name: "jobs_1".to_owned(),
        });
        for purpose in PURPOSES {
            assert_eq!(target_beside(arn, purpose, EVERYTHING), Ok(queue.clone()));
            let stream = Ok(Target::Stream("jobs_1".to_owned()));
            assert_eq!(target(arn, purpose), stream, "control: none are known");
            let topic = arn.replace("sqs", "sns");
            assert_eq!(target_beside(&topic, purpose, EVERYTHING), stream, "control: a topic");
            for (name, why) in [("jobs.fifo", "FIFO"), ("a.b", "a queue's name")] {
                let refused = target_beside(&arn.replace("jobs_1", name), purpose, EVERYTHING).unwrap_err();
                assert!(refused.contains(why), "{refused}");
            }
        }
    }

    #[test]
    fn a_bucket_takes_failures_where_buckets_are_known() {
        let arn = "arn:aws:s3:::failed-events";
        for (purpose, why) in PURPOSES.into_iter().zip(["failures only", "", "dead-letter", ""]) {
            match target_beside(arn, purpose, EVERYTHING) {
                Ok(found) => assert_eq!((found, why), (Target::Bucket("failed-events".to_owned()), "")),
                Err(refused) => assert!(!why.is_empty() && refused.contains(why), "{refused}"),
            }
        }
        let refused = target(arn, Purpose::Failure).unwrap_err();
        assert!(refused.contains("--s3-endpoint"), "{refused}");
        for bad in ["arn:aws:s3:::b", "arn:aws:s3:::bucket/key", "arn:aws:s3:::Bucket"] {
            assert!(target_beside(bad, Purpose::Failure, EVERYTHING).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_not_here_is_refused_with_a_reason() {
        for (arn, why) in [
            ("orders", "not an ARN"),
            ("arn:aws:sqs:eu-central-1:12:orders", "account"),
            ("arn:aws:sns:::topic", "account"),
            (
                "arn:aws:events:eu-central-1:000000000000:event-bus/b",
                "a destination on this node",
            ),
            ("arn:aws:kinesis:eu-central-1:000000000000:orders", "names no stream"),
            (
                "arn:aws:sqs:eu-central-1:000000000000:bowline.async",
                "belongs to the platform",
            ),
            ("arn:aws:sqs:eu-central-1:000000000000:a b", "letters"),
            ("arn:other:sqs:eu-central-1:000000000000:orders", "partition"),
        ] {
            let refused = target(arn, Purpose::Failure).expect_err(arn);
            assert!(refused.contains(why), "{arn}: {refused}");
        }
    }

    #[test]
    fn sources_are_streams_and_queues() {
        let stream = |name: &str| Ok(Source::Stream(name.to_owned()));
        let queue = |name: &str| {
            Ok(Source::Queue(QueueName {
                account: AccountId::default_account(),
                name: name.to_owned(),
            }))
        };
        let found = |arn| source(arn).map_err(|error| error.to_string());
        assert_eq!(found("arn:aws:kinesis:r:000000000000:stream/s"), stream("s"));
        assert_eq!(found("arn:bowline:stream:r:000000000000:s"), stream("s"));
        assert_eq!(
            found("arn:bowline:stream:r:000000000000:bowline.audit"),
            stream(AUDIT_STREAM)
        );
        assert_eq!(found("arn:aws:sqs:r:000000000000:jobs_1"), queue("jobs_1"));
        assert_eq!(found("arn:aws:sqs:r:000000000000:jobs.fifo"), queue("jobs.fifo"));
        for bad in [
            "arn:aws:sqs:r:000000000000:a.b",
            "arn:aws:sqs:r:000000000000:.fifo",
            "arn:aws:sqs:r:12:s",
            "arn:other:sqs:r:000000000000:s",
            "arn:aws:dynamodb:r:000000000000:table/t/stream/s",
            "arn:aws:kinesis:r:000000000000:stream/bowline.async.000000000000.f",
            "s",
        ] {
            assert!(found(bad).is_err(), "{bad}");
        }
    }
}
