//! Reading executions: one, many, their history, their state.

use std::sync::Arc;

use bowline_foundation::clock::Timestamp;
use bowline_store::record::FrameError;
use serde_json::value::RawValue;

use super::event::Event;
use super::head::{DurableConfig, ExecutionStatus, Head, Pause};
use super::id::{CheckpointToken, ExecutionArn, ExecutionId, ExecutionKey, ExecutionName};
use super::ledger::{HeadPage, LedgerError};
use super::limits::{PAGE_BYTES_MAX, PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX};
use super::operation::{Operation, OperationType, Payload};
use super::shape::OperationView;
use super::state::{Execution, Refusal, Ticket};
use crate::error::Error;
use crate::name::{FunctionRef, Qualifier, Version};
use crate::service::Inner;

/// How many heads a list reads at once while it looks for those that pass the filter.
const HEADS: usize = 200;

/// Whether payloads are wanted too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    Included,
    Left,
}

/// An execution as a caller sees it.
#[derive(Clone, Debug)]
pub struct ExecutionView {
    pub arn: ExecutionArn,
    pub status: ExecutionStatus,
    pub started: Timestamp,
    pub ended: Option<Timestamp>,
    pub config: DurableConfig,
    pub trace_id: Option<String>,
    pub input: Option<String>,
    pub result: Option<String>,
    /// The JSON of the error.
    pub error: Option<Box<RawValue>>,
    pub pause: Option<Pause>,
    /// When it will have taken too long; none once it is over.
    pub deadline: Option<Timestamp>,
}

/// One execution of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct ExecutionSummary {
    pub arn: ExecutionArn,
    pub status: ExecutionStatus,
    pub started: Timestamp,
    pub ended: Option<Timestamp>,
}

/// Which executions of a function are wanted.
#[derive(Clone, Debug, Default)]
pub struct ExecutionFilter {
    pub name: Option<ExecutionName>,
    /// All if empty.
    pub statuses: Vec<ExecutionStatus>,
    pub started_after: Option<Timestamp>,
    pub started_before: Option<Timestamp>,
    pub oldest_first: bool,
}

/// Which part of a long answer is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paging {
    pub marker: Option<String>,
    /// 0 or none: the default; at most 1,000.
    pub items_max: Option<u32>,
}

/// A part of a long answer.
#[derive(Clone, Debug)]
pub struct Part<T> {
    pub items: Vec<T>,
    pub next_marker: Option<String>,
}

/// An event with its payloads at hand, if they are wanted.
#[derive(Clone, Debug)]
pub struct EventView {
    pub event: Event,
    pub input: Option<String>,
    pub result: Option<String>,
    pub error: Option<Box<RawValue>>,
}

/// Operations of one page.
pub(super) struct OperationsPage {
    pub views: Vec<OperationView>,
    /// Where the next page begins.
    pub next: Option<usize>,
    /// The ids of the operations that a ticket names as new.
    pub news: Vec<String>,
}

impl Paging {
    fn items(&self) -> Result<usize, Error> {
        match self.items_max.map(|items| items as usize) {
            None | Some(0) => Ok(PAGE_ITEMS_DEFAULT),
            Some(items) if items <= PAGE_ITEMS_MAX => Ok(items),
            Some(items) => Err(Error::InvalidParameter(format!(
                "MaxItems is at most {PAGE_ITEMS_MAX}; it is {items}."
            ))),
        }
    }

    fn position<T: std::str::FromStr>(&self) -> Result<Option<T>, Error> {
        let marker = self.marker.as_ref().filter(|marker| !marker.is_empty());
        marker
            .map(|marker| marker.parse().map_err(|_| invalid_marker()))
            .transpose()
    }
}

fn invalid_marker() -> Error {
    Error::InvalidParameter("Invalid marker".to_owned())
}

impl Inner {
    /// One page of the operations that a function needs, from a place on.
    pub(super) async fn operations_page(
        &self,
        key: &ExecutionKey,
        from: usize,
        items_max: usize,
        ticket: Option<&Ticket>,
    ) -> Result<OperationsPage, Error> {
        let looked = self.look_at_execution(key, |execution| Ok(page(execution, from, items_max, ticket)));
        let (picked, next, news) = looked.await?;
        Ok(OperationsPage {
            views: self.operation_views(key, picked).await?,
            next,
            news,
        })
    }

    /// Operations with their payloads.
    pub(super) async fn operation_views(
        &self,
        key: &ExecutionKey,
        picked: Vec<Picked>,
    ) -> Result<Vec<OperationView>, Error> {
        let mut views = Vec::with_capacity(picked.len());
        for Picked { operation, callback_id } in picked {
            views.push(OperationView {
                input: self.text(key.id, operation.input.as_ref()).await?,
                result: self.text(key.id, operation.result.as_ref()).await?,
                error: self.json(key.id, operation.error.as_ref()).await?,
                operation,
                callback_id,
            });
        }
        Ok(views)
    }

    async fn text(&self, id: ExecutionId, payload: Option<&Payload>) -> Result<Option<String>, LedgerError> {
        match payload {
            None => Ok(None),
            Some(payload) => self.durable.ledger.text(id, payload).await.map(Some),
        }
    }

    async fn json(&self, id: ExecutionId, payload: Option<&Payload>) -> Result<Option<Box<RawValue>>, LedgerError> {
        let text = self.text(id, payload).await?;
        let raw = text.map(RawValue::from_string).transpose();
        raw.map_err(|error| FrameError::Json(error).into())
    }

    /// What a function asks to go on where its event was cut short.
    pub(crate) async fn execution_state(
        &self,
        arn: &ExecutionArn,
        token: CheckpointToken,
        paging: &Paging,
    ) -> Result<Part<OperationView>, Error> {
        let (key, from) = (arn.key(), paging.position::<usize>()?.unwrap_or(0));
        let items = paging.items()?;
        let looked = self.look_at_execution(&key, |execution| {
            if execution.head.arn != *arn || execution.is_over() || execution.head.token() != Some(token) {
                return Err(Error::InvalidParameter(Refusal::Token.to_string()));
            }
            Ok(page(execution, from, items, None))
        });
        let (picked, next, _) = looked.await.map_err(token_of_nothing)?;
        Ok(Part {
            items: self.operation_views(&key, picked).await?,
            next_marker: next.map(|next| next.to_string()),
        })
    }

    /// The head of the execution that an ARN names.
    pub(super) async fn named_execution(&self, arn: &ExecutionArn) -> Result<Head, Error> {
        let head = self.execution_head(&arn.key()).await?;
        let same = head.arn.name == arn.name && head.arn.version == arn.version && !head.is_plain;
        same.then_some(head)
            .ok_or_else(|| super::engine::no_execution(&arn.key()))
    }

    pub(crate) async fn execution(&self, arn: &ExecutionArn, data: Data) -> Result<ExecutionView, Error> {
        let head = self.named_execution(arn).await?;
        let key = arn.key();
        let looked = self.look_at_execution(&key, |execution| {
            let input = execution.operations.first().and_then(|first| first.input.clone());
            Ok((input, execution.deadline()))
        });
        let (input, deadline) = looked.await?;
        let is_over = head.ended.is_some();
        let mut view = ExecutionView {
            status: head.shown_status(),
            started: head.started,
            ended: head.ended,
            config: head.config,
            trace_id: head.trace_id,
            input: None,
            result: None,
            error: None,
            pause: head.pause,
            deadline: (!is_over).then_some(deadline),
            arn: head.arn,
        };
        if data == Data::Included {
            view.input = self.text(key.id, input.as_ref()).await?;
            view.result = self.text(key.id, head.result.as_ref()).await?;
            view.error = self.json(key.id, head.error.as_ref()).await?;
        }
        Ok(view)
    }

    pub(crate) async fn execution_history(
        &self,
        arn: &ExecutionArn,
        data: Data,
        newest_first: bool,
        paging: &Paging,
    ) -> Result<Part<EventView>, Error> {
        let head = self.named_execution(arn).await?;
        let items = paging.items()? as u64;
        let after: Option<u64> = paging.position()?;
        let numbers: Vec<u64> = if newest_first {
            let end = after.unwrap_or(head.events + 1).min(head.events + 1).max(1);
            (end.saturating_sub(items).max(1)..end).collect()
        } else {
            let begin = after.unwrap_or(0).saturating_add(1);
            (begin..begin.saturating_add(items).min(head.events + 1)).collect()
        };
        let mut events = self.durable.ledger.events(head.arn.id, numbers).await?;
        if newest_first {
            events.reverse();
        }
        let mut views = Vec::with_capacity(events.len());
        let mut bytes = 0;
        for event in events {
            let facts = &event.facts;
            let size: u64 = [&facts.input, &facts.result, &facts.error]
                .into_iter()
                .flatten()
                .map(Payload::bytes)
                .sum();
            bytes += if data == Data::Included { size } else { 0 };
            if bytes > PAGE_BYTES_MAX && !views.is_empty() {
                break;
            }
            views.push(self.event_view(head.arn.id, event, data).await?);
        }
        let last = views.last().map(|view| view.event.number);
        let is_end = if newest_first {
            last.is_none_or(|last| last <= 1)
        } else {
            last.is_none_or(|last| last >= head.events)
        };
        Ok(Part {
            next_marker: last.filter(|_| !is_end).map(|last| last.to_string()),
            items: views,
        })
    }

    async fn event_view(&self, id: ExecutionId, event: Event, data: Data) -> Result<EventView, Error> {
        let (mut input, mut result, mut error) = (None, None, None);
        if data == Data::Included {
            input = self.text(id, event.facts.input.as_ref()).await?;
            result = self.text(id, event.facts.result.as_ref()).await?;
            error = self.json(id, event.facts.error.as_ref()).await?;
        }
        Ok(EventView {
            event,
            input,
            result,
            error,
        })
    }

    pub(crate) async fn executions(
        self: &Arc<Self>,
        target: &FunctionRef,
        filter: &ExecutionFilter,
        paging: &Paging,
    ) -> Result<Part<ExecutionSummary>, Error> {
        let version = self.listed_version(target)?;
        let items = paging.items()?;
        let mut after = match paging.marker.as_deref().filter(|marker| !marker.is_empty()) {
            None => None,
            Some(marker) => Some(read_marker(marker)?),
        };
        let mut found: Vec<ExecutionSummary> = Vec::new();
        loop {
            let page = HeadPage {
                account: &target.account,
                function: &target.name,
                oldest_first: filter.oldest_first,
                after,
                limit: HEADS,
            };
            let heads = self.durable.ledger.heads(&page).await?;
            let is_last = heads.len() < HEADS;
            for head in heads {
                if found.len() == items {
                    let next_marker = after.map(|(id, started)| format!("{id}.{}", started.as_micros()));
                    return Ok(Part {
                        items: found,
                        next_marker,
                    });
                }
                after = Some((head.arn.id, head.started));
                if passes(&head, filter, version) {
                    found.push(summary(head));
                }
            }
            if is_last {
                return Ok(Part {
                    items: found,
                    next_marker: None,
                });
            }
        }
    }

    /// The version whose executions are wanted; all if the target names none.
    fn listed_version(&self, target: &FunctionRef) -> Result<Option<Version>, Error> {
        let entry = self.entry(target)?;
        match &target.qualifier {
            None => Ok(None),
            // Those of a version that is gone are still to be seen.
            Some(Qualifier::Version(version)) => Ok(Some(*version)),
            Some(Qualifier::Alias(_)) => Ok(Some(self.target(&entry, target)?.configuration.version)),
        }
    }
}

/// An operation with what only its execution knows.
pub(super) struct Picked {
    pub operation: Operation,
    pub callback_id: Option<String>,
}

pub(super) fn pick(execution: &Execution, at: usize) -> Picked {
    let operation = execution.operations[at].clone();
    let is_callback = operation.kind == OperationType::Callback;
    Picked {
        callback_id: is_callback.then(|| execution.callback_id(at).to_string()),
        operation,
    }
}

fn page(
    execution: &Execution,
    from: usize,
    items_max: usize,
    ticket: Option<&Ticket>,
) -> (Vec<Picked>, Option<usize>, Vec<String>) {
    let wanted = execution.replayed().into_iter().filter(|at| *at >= from);
    let (picked, next) = fill(execution, wanted, items_max);
    let news = ticket.map(|ticket| ticket.news.as_slice()).unwrap_or_default();
    let news = news.iter().filter_map(|at| execution.operations.get(*at));
    (picked, next, news.map(|operation| operation.id.clone()).collect())
}

/// Takes operations until a page is full; returns where the next page begins.
pub(super) fn fill(
    execution: &Execution,
    wanted: impl Iterator<Item = usize>,
    items_max: usize,
) -> (Vec<Picked>, Option<usize>) {
    let (mut picked, mut bytes) = (Vec::new(), 0);
    for at in wanted {
        bytes += execution.operations[at].payload_bytes();
        if !picked.is_empty() && (picked.len() == items_max || bytes > PAGE_BYTES_MAX) {
            return (picked, Some(at));
        }
        picked.push(pick(execution, at));
    }
    (picked, None)
}

fn passes(head: &Head, filter: &ExecutionFilter, version: Option<Version>) -> bool {
    !head.is_plain
        && version.is_none_or(|version| version == head.arn.version)
        && filter.name.as_ref().is_none_or(|name| *name == head.arn.name)
        && (filter.statuses.is_empty() || filter.statuses.contains(&head.shown_status()))
        && filter.started_after.is_none_or(|after| head.started > after)
        && filter.started_before.is_none_or(|before| head.started < before)
}

fn summary(head: Head) -> ExecutionSummary {
    ExecutionSummary {
        status: head.shown_status(),
        started: head.started,
        ended: head.ended,
        arn: head.arn,
    }
}

fn read_marker(marker: &str) -> Result<(ExecutionId, Timestamp), Error> {
    let (id, micros) = marker.split_once('.').ok_or_else(invalid_marker)?;
    let id = id.parse().map_err(|_| invalid_marker())?;
    let micros = micros.parse().map_err(|_| invalid_marker())?;
    Ok((id, Timestamp::from_micros(micros)))
}

/// A token of an execution that is not there is no token.
pub(super) fn token_of_nothing(error: Error) -> Error {
    match error {
        Error::NotFound(_) => Error::InvalidParameter(Refusal::Token.to_string()),
        error => error,
    }
}
