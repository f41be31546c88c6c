//! How AWS tools name a stream, and where an outcome can go.
//!
//! A stream `NAME` is an event source as `arn:aws:kinesis:REGION:ACCOUNT:stream/NAME` or
//! `arn:bowline:stream:REGION:ACCOUNT:NAME`. As a destination it may also be called a queue or a topic:
//! `arn:aws:sqs:REGION:ACCOUNT:NAME`, `arn:aws:sns:REGION:ACCOUNT:NAME`.

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
}

/// What a destination is for, which decides what it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// An event's outcome: a function or a stream.
    Outcome,
    /// An event itself or a batch's place: only a stream, as the service takes only a queue or a topic.
    DeadLetter,
}

impl Target {
    /// Reads a destination's ARN.
    pub fn parse(arn: &str, purpose: Purpose, caller: &AccountId) -> Result<Self, Error> {
        let invalid =
            |why: &str| Error::InvalidParameter(format!("The provided destination ARN {arn} is invalid: {why}."));
        if arn.len() > ARN_CHARS_MAX {
            return Err(invalid("it is too long"));
        }
        let parts: Vec<&str> = arn.splitn(6, ':').collect();
        let [_, partition, service, _region, account, resource] = parts[..] else {
            return Err(invalid("it is not an ARN"));
        };
        if parts[0] != "arn" || account.parse::<AccountId>().is_err() {
            return Err(invalid("it is not an ARN with an account"));
        }
        let name = match (partition, service) {
            ("bowline", "stream") => resource,
            (partition, _) if !partition.starts_with("aws") => return Err(invalid("its partition is unknown")),
            (_, "lambda") if purpose == Purpose::Outcome => {
                return Ok(Self::Function(FunctionRef::parse(arn, None, caller)?));
            }
            (_, "lambda") => return Err(invalid("a function cannot be a dead-letter target")),
            (_, "kinesis") => resource
                .strip_prefix("stream/")
                .ok_or_else(|| invalid("it names no stream"))?,
            (_, "sqs" | "sns") => resource,
            _ => {
                return Err(invalid(
                    "a destination on this node is a function, or a stream named by a Kinesis, SQS, SNS or Bowline ARN",
                ));
            }
        };
        check_name(name).map_err(|why| invalid(&why))?;
        Ok(Self::Stream(name.to_owned()))
    }
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
#[derive(Clone, Debug, PartialEq, Eq)]
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

    fn target(arn: &str, purpose: Purpose) -> Result<Target, String> {
        Target::parse(arn, purpose, &AccountId::default_account()).map_err(|error| error.to_string())
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
            for purpose in [Purpose::Outcome, Purpose::DeadLetter] {
                assert_eq!(target(arn, purpose), Ok(Target::Stream("orders".to_owned())), "{arn}");
            }
        }
    }

    #[test]
    fn a_function_takes_outcomes_but_no_dead_letters() {
        let arn = "arn:aws:lambda:eu-central-1:000000000000:function:f:live";
        assert!(matches!(target(arn, Purpose::Outcome), Ok(Target::Function(_))));
        assert!(target(arn, Purpose::DeadLetter).is_err());
    }

    #[test]
    fn what_is_not_here_is_refused_with_a_reason() {
        for (arn, why) in [
            ("orders", "not an ARN"),
            ("arn:aws:sqs:eu-central-1:12:orders", "account"),
            ("arn:aws:s3:::bucket", "account"),
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
            let refused = target(arn, Purpose::Outcome).expect_err(arn);
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
