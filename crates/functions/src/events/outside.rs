//! Records for the services beside the node: messages for queues, objects for buckets.
//!
//! What a service does not take now is tried again for as long as it takes. A queue or a bucket that is not there is
//! waited for a minute, as somebody may be making it anew; then what comes for it is given up until it is there, or
//! nobody has asked for it for a while.

use std::collections::HashMap;
use std::time::Duration;

use bowline_aws::CallError;
use bowline_aws::s3::S3;
use bowline_aws::sqs::{Attribute, Queue, Sqs};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::arn::{Beside, QueueName};
use super::content::Content;
use super::deliver::Failure;
use crate::error::{Error, with_causes};

/// How long records wait for a queue or a bucket that is not there.
const ABSENT_MAX: Duration = Duration::from_secs(60);
/// Longer than records pause between tries: who asks later than that waits anew.
const MISSED_ANEW: Duration = Duration::from_secs(15 * 60);
/// What a service says of a record that it will never take.
const NEVER: [&str; 5] = [
    "InvalidMessageContents",
    "InvalidParameterValue",
    "InvalidAttributeValue",
    "UnsupportedOperation",
    "EntityTooLarge",
];
/// What it says of a queue or a bucket that is not there.
const ABSENT: [&str; 3] = ["QueueDoesNotExist", "NonExistentQueue", "NoSuchBucket"];

/// The services that the node was told of.
pub(crate) struct Outside {
    queues: Option<Sqs>,
    buckets: Option<S3>,
    /// Queues that have been found.
    places: Mutex<HashMap<QueueName, Place>>,
    missed: Missed,
}

/// Where a queue is, and the largest message that it takes.
#[derive(Clone)]
struct Place {
    queue: Queue,
    bytes_max: usize,
}

impl Outside {
    pub fn new(queues: Option<Sqs>, buckets: Option<S3>) -> Self {
        Self {
            queues,
            buckets,
            places: Mutex::default(),
            missed: Missed::default(),
        }
    }

    pub fn beside(&self) -> Beside {
        Beside {
            queues: self.queues.is_some(),
            buckets: self.buckets.is_some(),
        }
    }

    /// Where queues are.
    pub fn queues(&self) -> Result<&Sqs, Error> {
        self.queues.as_ref().ok_or_else(|| {
            Error::InvalidParameter(
                "No SQS endpoint is configured on this node; start it with --sqs-endpoint http://HOST:PORT to read \
                 queues."
                    .to_owned(),
            )
        })
    }

    /// Refuses a queue that is not there.
    pub async fn check_queue(&self, arn: &str, name: &QueueName) -> Result<(), Error> {
        let sqs = self.queues()?;
        let found = self.find(sqs, name).await;
        found.map(|_| self.missed.found(arn)).map_err(|error| {
            refused(
                arn,
                &error,
                &format!("Make queue `{}` at {} first.", name.name, sqs.endpoint()),
            )
        })
    }

    /// Refuses a bucket that is not there.
    pub async fn check_bucket(&self, arn: &str, name: &str) -> Result<(), Error> {
        let Some(s3) = &self.buckets else { return Ok(()) };
        match s3.has_bucket(name).await {
            Ok(true) => {
                self.missed.found(arn);
                Ok(())
            }
            Ok(false) => Err(Error::InvalidParameter(format!(
                "The destination ARN {arn} is invalid: there is no bucket `{name}` at {}. Make it there first.",
                s3.endpoint()
            ))),
            Err(error) => Err(refused(arn, &error, "The node's keys must permit it.")),
        }
    }

    /// Sends a record to a queue: the whole of it if the queue takes so much, else what must be in it.
    pub(super) async fn send(&self, arn: &str, name: &QueueName, content: Content<'_>) -> Result<(), Failure> {
        let sqs = self.queues().map_err(|error| Failure::Never(error.to_string()))?;
        let attributes = content.attributes();
        let taken: usize = attributes.iter().map(|(name, value)| value.bytes(name)).sum();
        let whole = content.bytes(usize::MAX);
        let known = self.places.lock().get(name).cloned();
        if let Some(place) = known.filter(|place| whole.len() + taken <= place.bytes_max) {
            match self.send_to(sqs, (arn, &place), &whole, &attributes).await {
                Ok(()) => return Ok(()),
                Err(failure) => {
                    // It may be another queue by the next try, or take less.
                    self.places.lock().remove(name);
                    if matches!(failure, Failure::Later(_)) {
                        return Err(failure);
                    }
                }
            }
        }
        let found = self.find(sqs, name).await;
        let place = found.map_err(|error| self.failure(arn, &error))?;
        self.missed.found(arn);
        self.places.lock().insert(name.clone(), place.clone());
        let room = place.bytes_max.saturating_sub(taken);
        let body = if whole.len() <= room {
            whole
        } else {
            content.bytes(room)
        };
        if body.len() > room {
            return Err(Failure::Never(format!(
                "the queue takes messages of {} bytes at most; this one has {}",
                place.bytes_max,
                body.len() + taken
            )));
        }
        self.send_to(sqs, (arn, &place), &body, &attributes).await
    }

    async fn send_to(
        &self,
        sqs: &Sqs,
        (arn, place): (&str, &Place),
        body: &Bytes,
        attributes: &[(&str, Attribute)],
    ) -> Result<(), Failure> {
        let Ok(body) = std::str::from_utf8(body) else {
            return Err(Failure::Never("a message is text, and this is none".to_owned()));
        };
        let sent = sqs.send_message(&place.queue, body, attributes).await;
        sent.map_err(|error| self.failure(arn, &error))?;
        self.missed.found(arn);
        Ok(())
    }

    /// Puts a record into a bucket.
    pub(super) async fn put(&self, arn: &str, bucket: &str, (key, body): (String, Bytes)) -> Result<(), Failure> {
        let Some(s3) = &self.buckets else {
            return Err(Failure::Never("the node was told of no buckets".to_owned()));
        };
        let put = s3.put_json(bucket, &key, body).await;
        put.map_err(|error| self.failure(arn, &error))?;
        self.missed.found(arn);
        Ok(())
    }

    async fn find(&self, sqs: &Sqs, name: &QueueName) -> Result<Place, CallError> {
        let queue = sqs.queue(name.account.as_str(), &name.name).await?;
        let bytes_max = sqs.message_bytes_max(&queue).await?;
        Ok(Place { queue, bytes_max })
    }

    fn failure(&self, arn: &str, error: &CallError) -> Failure {
        let reason = with_causes(error);
        match error {
            CallError::Refused(refusal) if ABSENT.contains(&refusal.code.as_str()) => {
                if self.missed.for_too_long(arn) {
                    Failure::Never(reason)
                } else {
                    Failure::Later(reason)
                }
            }
            CallError::Refused(refusal) if NEVER.contains(&refusal.code.as_str()) => Failure::Never(reason),
            // Keys, certificates and services that are away are mended by the operator.
            _ => Failure::Later(reason),
        }
    }
}

/// What is not there, by ARN: since when, and when somebody asked last.
#[derive(Default)]
struct Missed(Mutex<HashMap<String, (Instant, Instant)>>);

impl Missed {
    /// It is missed once more; says whether it has been long enough.
    fn for_too_long(&self, arn: &str) -> bool {
        let now = Instant::now();
        let mut missed = self.0.lock();
        missed.retain(|_, (_, last)| now.duration_since(*last) < MISSED_ANEW);
        let (first, last) = missed.entry(arn.to_owned()).or_insert((now, now));
        *last = now;
        now.duration_since(*first) >= ABSENT_MAX
    }

    fn found(&self, arn: &str) {
        self.0.lock().remove(arn);
    }
}

fn refused(arn: &str, error: &CallError, advice: &str) -> Error {
    let reason = with_causes(error);
    Error::InvalidParameter(match error {
        CallError::Refused(_) => format!("The destination ARN {arn} is invalid: {reason} {advice}"),
        _ => format!("The destination ARN {arn} cannot be checked: {reason}. Try again when the service answers."),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_missed_is_waited_for_a_minute_each_time() {
        let (missed, second) = (Missed::default(), Duration::from_secs(1));
        assert!(!missed.for_too_long("q"));
        tokio::time::advance(ABSENT_MAX - second).await;
        assert!(!missed.for_too_long("q"));
        tokio::time::advance(second).await;
        assert!(missed.for_too_long("q"), "a minute is over");
        assert!(!missed.for_too_long("other"));
        // It was there meanwhile.
        missed.found("q");
        assert!(!missed.for_too_long("q"));
        // Nobody asked for it for long, so nobody knows whether it was there.
        tokio::time::advance(MISSED_ANEW - second).await;
        assert!(missed.for_too_long("q"));
        tokio::time::advance(MISSED_ANEW).await;
        assert!(!missed.for_too_long("q"));
        assert_eq!(missed.0.lock().len(), 1, "the other one is forgotten");
    }
}
