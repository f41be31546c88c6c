//! What a guest may ask when: the Runtime API as a state machine, apart from all I/O.
//!
//! ```text
//!        next                 start               a streamed response of id begins
//!  Init ──────▶ Idle ─────────────────▶ Busy(id) ──────────────────────────────────▶ Streaming(id)
//!   │            ▲ ▲                       │                                              │
//!   │ init/error │ └───────────────────────┘                                              │
//!   ▼            │   response or error of id                                              │
//!  InitFailed    └────────────────────────────────────────────────────────────────────────┘
//!                                          its end
//! ```
//! `next` is parked in `Idle`, `Busy` and `Streaming` until an event is started; in `InitFailed` it is
//! refused. An answer to the invocation answered last, or being answered, is a second answer (403), one to
//! any other is unknown (400).

use bowline_foundation::id::RequestId;

use super::http::Route;

/// Where the guest stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It has asked for nothing yet.
    Init,
    /// It said that it cannot be initialised.
    InitFailed,
    /// It has no invocation.
    Idle,
    /// It works on an invocation.
    Busy(RequestId),
    /// It works on an invocation whose answer it has begun.
    Streaming(RequestId),
}

/// What to do with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Answer it when there is an event.
    Park,
    /// Its body is the invocation's answer.
    TakeAnswer,
    /// Its body is the invocation's error.
    TakeError,
    /// Its body says why the guest cannot be initialised.
    TakeInitError,
    /// Answer it with an error.
    Refuse(Refusal),
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// 400: the invocation is not the present one.
    InvalidRequestId,
    /// 400: the response mode is not one that exists.
    InvalidMode,
    /// 403: not in this state.
    InvalidTransition,
    /// 404: no such path.
    NotFound,
    /// 413: the answer is larger than it may be.
    TooLarge,
}

/// The state of one guest.
#[derive(Debug)]
pub(crate) struct Machine {
    phase: Phase,
    answered: Option<RequestId>,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self {
            phase: Phase::Init,
            answered: None,
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Begins an invocation; false if the guest is in no state for one.
    pub(crate) fn start(&mut self, id: RequestId) -> bool {
        let idle = self.phase == Phase::Idle;
        if idle {
            self.phase = Phase::Busy(id);
        }
        idle
    }

    /// Takes a request and says what it means.
    pub(crate) fn take(&mut self, route: &Route) -> Verdict {
        match route {
            Route::Next => self.take_next(),
            Route::Response(id) => self.take_answer(id, Verdict::TakeAnswer),
            Route::Error(id) => self.take_answer(id, Verdict::TakeError),
            Route::InitError => self.take_init_error(),
            // None of these is the runtime's: the server takes them before they come here.
            Route::Extension(_) | Route::Ping | Route::Platform(_) | Route::Unknown => {
                Verdict::Refuse(Refusal::NotFound)
            }
        }
    }

    /// Takes the head of a streamed answer, whose end is told by [`Self::end_stream`].
    pub(crate) fn begin_stream(&mut self, id: &str) -> Verdict {
        let verdict = self.take_answer(id, Verdict::TakeAnswer);
        if let (Verdict::TakeAnswer, Some(id)) = (verdict, self.answered) {
            self.phase = Phase::Streaming(id);
        }
        verdict
    }

    /// The streamed answer is over.
    pub(crate) fn end_stream(&mut self) {
        self.phase = Phase::Idle;
    }

    fn take_next(&mut self) -> Verdict {
        match self.phase {
            Phase::InitFailed => Verdict::Refuse(Refusal::InvalidTransition),
            Phase::Init => {
                self.phase = Phase::Idle;
                Verdict::Park
            }
            Phase::Idle | Phase::Busy(_) | Phase::Streaming(_) => Verdict::Park,
        }
    }

    fn take_answer(&mut self, id: &str, verdict: Verdict) -> Verdict {
        if let Phase::Busy(current) = self.phase
            && current.as_str() == id
        {
            self.phase = Phase::Idle;
            self.answered = Some(current);
            return verdict;
        }
        if self.answered.is_some_and(|answered| answered.as_str() == id) {
            Verdict::Refuse(Refusal::InvalidTransition)
        } else {
            Verdict::Refuse(Refusal::InvalidRequestId)
        }
    }

    fn take_init_error(&mut self) -> Verdict {
        if self.phase != Phase::Init {
            return Verdict::Refuse(Refusal::InvalidTransition);
        }
        self.phase = Phase::InitFailed;
        Verdict::TakeInitError
    }
}

impl Refusal {
    /// Status line, error type and message.
    pub(crate) fn text(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::InvalidRequestId => ("400 Bad Request", "InvalidRequestID", "Invalid request ID"),
            Self::InvalidMode => (
                "400 Bad Request",
                "InvalidFunctionResponseMode",
                "Invalid response mode",
            ),
            Self::InvalidTransition => (
                "403 Forbidden",
                "InvalidStateTransition",
                "State transition is not allowed",
            ),
            Self::NotFound => ("404 Not Found", "NotFound", "No such operation"),
            Self::TooLarge => (
                "413 Payload Too Large",
                "RequestEntityTooLarge",
                "Exceeded maximum allowed payload size (6291556 bytes).",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use bowline_foundation::entropy::Entropy;

    use super::*;

    fn id(seed: u64) -> RequestId {
        RequestId::random(&Entropy::seeded(seed))
    }

    fn response(id: RequestId) -> Route {
        Route::Response(id.as_str().into())
    }

    #[test]
    fn an_invocation_is_answered_once() {
        let mut machine = Machine::new();
        assert!(!machine.start(id(1)), "nothing starts before the guest asks");
        assert_eq!(machine.take(&Route::Next), Verdict::Park);
        assert!(machine.start(id(1)));
        assert!(!machine.start(id(2)), "one at a time");
        assert_eq!(machine.take(&response(id(1))), Verdict::TakeAnswer);
        let second = Verdict::Refuse(Refusal::InvalidTransition);
        assert_eq!(machine.take(&response(id(1))), second);
        assert_eq!(machine.take(&Route::Error(id(1).as_str().into())), second);
    }

    #[test]
    fn a_late_answer_does_not_touch_the_next_invocation() {
        let mut machine = Machine::new();
        machine.take(&Route::Next);
        assert!(machine.start(id(1)));
        machine.take(&response(id(1)));
        assert!(machine.start(id(2)));
        let verdict = machine.take(&response(id(1)));
        assert_eq!(verdict, Verdict::Refuse(Refusal::InvalidTransition));
        let verdict = machine.take(&response(id(3)));
        assert_eq!(verdict, Verdict::Refuse(Refusal::InvalidRequestId));
        assert_eq!(machine.phase(), Phase::Busy(id(2)));
        assert_eq!(machine.take(&Route::Error(id(2).as_str().into())), Verdict::TakeError);
    }

    #[test]
    fn a_streamed_answer_is_the_answer_from_its_head_on() {
        let mut machine = Machine::new();
        machine.take(&Route::Next);
        assert!(machine.start(id(1)));
        let unknown = Verdict::Refuse(Refusal::InvalidRequestId);
        assert_eq!(machine.begin_stream(id(2).as_str()), unknown);
        assert_eq!(machine.begin_stream(id(1).as_str()), Verdict::TakeAnswer);
        let second = Verdict::Refuse(Refusal::InvalidTransition);
        assert_eq!(machine.begin_stream(id(1).as_str()), second);
        assert_eq!(machine.take(&Route::Error(id(1).as_str().into())), second);
        assert_eq!(machine.take(&Route::Next), Verdict::Park);
        assert!(!machine.start(id(2)), "the answer is not over");
        machine.end_stream();
        assert!(machine.start(id(2)));
    }

    #[test]
    fn initialisation_fails_once_and_for_good() {
        let mut machine = Machine::new();
        assert_eq!(machine.take(&Route::InitError), Verdict::TakeInitError);
        let refused = Verdict::Refuse(Refusal::InvalidTransition);
        assert_eq!(machine.take(&Route::InitError), refused);
        assert_eq!(machine.take(&Route::Next), refused);
        let mut machine = Machine::new();
        machine.take(&Route::Next);
        assert_eq!(machine.take(&Route::InitError), refused, "it is initialised already");
    }
}
