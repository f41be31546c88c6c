//! Sandboxes without an instance: each invocation brings one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bowline_foundation::digest::Digest;
use bowline_sandbox::{FunctionError, Invocation, Outcome, Report, Sandbox, Usage};

use crate::backend::Shared;
use crate::guest::Surroundings;
use crate::http::HttpGuest;
use crate::image::{Fresh, Image, Program};
use crate::runner::{Departure, Unfinished, Work};
use crate::{command, http, lane};

/// After so many invocations a sandbox is busy: it uses the lane of whatever processor it runs on.
const QUIET_MAX: u32 = 16;

/// A place to run a command or a `wasi:http` component in.
pub(crate) struct FreshSandbox {
    shared: Arc<Shared>,
    surroundings: Arc<Surroundings>,
    /// The variables of a component; a command has them from its surroundings.
    environment: Vec<(String, String)>,
    digest: Digest,
    /// By lane.
    images: Vec<Option<Arc<Image>>>,
    home: usize,
    served: u32,
    departure: Departure,
}

impl FreshSandbox {
    /// A sandbox of the module `image`, which is mapped in the lane `home`.
    pub(crate) fn new(
        shared: Arc<Shared>,
        surroundings: Arc<Surroundings>,
        environment: Vec<(String, String)>,
        digest: Digest,
        (home, image): (usize, Arc<Image>),
    ) -> Self {
        let mut images = vec![None; shared.images.lanes().len()];
        images[home] = Some(image);
        Self {
            shared,
            surroundings,
            environment,
            digest,
            images,
            home,
            served: 0,
            departure: Departure::default(),
        }
    }

    /// The image for the next invocation.
    fn image(&mut self) -> Arc<Image> {
        let mut lane = self.home;
        if self.served < QUIET_MAX {
            self.served += 1;
        } else {
            lane = lane::here(self.images.len());
        }
        if self.images[lane].is_none() {
            // Without memory for another mapping it goes on with what it has.
            self.images[lane] = self.shared.images.get(lane, &self.digest).ok();
        }
        let image = self.images[lane].as_ref().or(self.images[self.home].as_ref());
        image.expect("the home lane has an image from the start").clone()
    }

    fn work(&self, image: &Image, invocation: Invocation) -> Work<Outcome> {
        let surroundings = self.surroundings.clone();
        match &image.program {
            Program::Fresh(Fresh::Command(program)) => {
                let program = program.clone();
                Box::pin(async move { command::run(&program, surroundings, invocation).await })
            }
            Program::Fresh(Fresh::Http(program)) => {
                let program = program.clone();
                let guest = HttpGuest::new(&surroundings, &self.environment);
                Box::pin(async move { http::serve(&program, guest, invocation).await })
            }
            Program::Reactor(_) => unreachable!("the backend makes another kind of sandbox for reactors"),
        }
    }
}

#[async_trait]
impl Sandbox for FreshSandbox {
    async fn invoke(&mut self, invocation: Invocation) -> Report {
        let started = self.surroundings.clock.monotonic();
        let budget = invocation.deadline.monotonic.since(started);
        let (request_id, limit) = (invocation.request_id, invocation.deadline.budget);
        let image = self.image();
        let work = self.work(&image, invocation);
        let finished = self.shared.runner.run(work, budget, &mut self.departure).await;
        let (outcome, reusable) = match finished {
            Ok(outcome) => {
                let reusable = !matches!(outcome, Outcome::Broken(_));
                (outcome, reusable)
            }
            Err(Unfinished::Late) => (Outcome::Failed(FunctionError::timed_out(request_id, limit)), false),
            Err(Unfinished::Lost(error)) => (Outcome::Broken(error.to_string()), false),
        };
        image.ran();
        Report {
            outcome,
            usage: Usage {
                duration: self.surroundings.clock.monotonic().since(started),
                memory_bytes_max: self.surroundings.peak_bytes(),
                cpu: Duration::ZERO,
            },
            reusable,
        }
    }

    fn is_alive(&mut self) -> bool {
        true
    }

    async fn idle(&mut self) {
        self.images.iter().flatten().for_each(|image| image.let_go());
    }

    fn resident_bytes(&self) -> u64 {
        0
    }

    async fn destroy(mut self: Box<Self>) {
        self.departure.wait().await;
    }
}
