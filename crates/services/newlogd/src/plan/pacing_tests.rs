#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;
use crate::name::Stream;

const S: fn(u64) -> Duration = Duration::from_secs;

fn file(ms: u64) -> FileName {
    FileName {
        ms,
        stream: Stream::Device,
    }
}

fn middle() -> Pacing {
    Pacing::new(S(0), 0.5)
}

fn tell(pacing: &mut Pacing, answer: Answer, at: Duration) -> Verdict {
    let pace = pacing.interval(0, false, at);
    pacing.answered(Queue::Device, file(1), answer, pace, at)
}

#[test]
fn who_asks_for_time_gets_it() {
    let mut pacing = middle();
    pacing.wait(S(10), S(1000));
    assert_eq!(pacing.left(2000, true, S(10)), S(1100));
    assert_eq!(pacing.left(2000, true, S(1109)), S(1));
    assert_eq!(pacing.left(2000, true, S(1110)), S(0));
    pacing.wait(S(20), S(1));
    assert_eq!(
        pacing.left(2000, true, S(1000)),
        S(110),
        "the longer wait counts"
    );
}

#[test]
fn the_pace_follows_the_backlog() {
    let pace = |left| middle().interval(left, false, S(0)).as_secs();
    for (left, seconds) in [
        (0, 90),
        (5, 90),
        (6, 45),
        (25, 45),
        (26, 30),
        (51, 15),
        (201, 8),
        (1000, 8),
        (1001, 3),
    ] {
        assert_eq!(pace(left), seconds, "{left} files");
    }
    assert_eq!(middle().interval(0, true, S(0)), S(3));
}

#[test]
fn three_failures_are_failing_and_three_successes_end_it() {
    let mut pacing = middle();
    tell(&mut pacing, Answer::Unavailable, S(10));
    tell(&mut pacing, Answer::Taken, S(20));
    tell(&mut pacing, Answer::Unavailable, S(30));
    tell(&mut pacing, Answer::Unavailable, S(40));
    assert_eq!(pacing.failing, None);
    tell(&mut pacing, Answer::Unavailable, S(50));
    assert_eq!(pacing.failing, Some(S(50)));
    // 20 minutes at the normal pace, then rarely.
    assert_eq!(pacing.interval(0, false, S(1250)), S(90));
    assert_eq!(pacing.interval(2000, false, S(1251)), S(540));
    assert_eq!(pacing.interval(0, true, S(1251)), S(540));
    tell(&mut pacing, Answer::Taken, S(2000));
    // It is back: what waited does not wait for three rare tries.
    assert_eq!(pacing.interval(60, false, S(2001)), S(15));
    tell(&mut pacing, Answer::Taken, S(2010));
    assert!(pacing.failing.is_some());
    tell(&mut pacing, Answer::Taken, S(2020));
    assert_eq!(pacing.failing, None);
    assert_eq!(pacing.interval(0, false, S(2020)), S(90));
}

#[test]
fn too_many_requests_slow_down_for_hours() {
    let mut pacing = middle();
    assert_eq!(tell(&mut pacing, Answer::TooMany, S(1000)), Verdict::Again);
    assert_eq!(pacing.interval(2000, true, S(1000)), S(180));
    tell(&mut pacing, Answer::TooMany, S(1300));
    assert_eq!(
        pacing.interval(0, false, S(1300)),
        S(180),
        "not again within 300 s"
    );
    tell(&mut pacing, Answer::TooMany, S(1601));
    assert_eq!(
        pacing.interval(0, false, S(1601)),
        S(300),
        "doubled, at most 300 s"
    );
    assert_eq!(pacing.interval(0, false, S(1601 + 3599)), S(300));
    assert_eq!(
        pacing.interval(0, false, S(1601 + 3600)),
        S(180),
        "half the pace"
    );
    assert_eq!(
        pacing.interval(2000, false, S(1601 + 3600)),
        S(10),
        "not under 10 s"
    );
    assert_eq!(pacing.interval(0, false, S(1601 + 7200)), S(90));
}

#[test]
fn a_refused_file_is_given_up_at_the_eleventh_refusal() {
    let mut pacing = middle();
    for _ in 0..10 {
        assert_eq!(tell(&mut pacing, Answer::Refused, S(1)), Verdict::Again);
    }
    // Other queues and outages in between change nothing.
    tell(&mut pacing, Answer::Unavailable, S(2));
    let other = pacing.answered(Queue::App, file(2), Answer::Refused, S(1), S(2));
    assert_eq!(other, Verdict::Again);
    assert_eq!(tell(&mut pacing, Answer::Refused, S(3)), Verdict::GivenUp);
    assert_eq!(tell(&mut pacing, Answer::Refused, S(3)), Verdict::Again);
}

proptest! {
    #[test]
    fn the_pace_stays_within_its_bounds(
        answers in prop::collection::vec((0_u8..4, 0_u64..4000, 0.0..1.0_f64), 0..60),
        left in 0_usize..3000,
        fast: bool,
    ) {
        let mut pacing = middle();
        let mut now = S(0);
        for (answer, seconds, dice) in answers {
            now += S(seconds);
            let answer = [Answer::Taken, Answer::Refused, Answer::TooMany, Answer::Unavailable][usize::from(answer)];
            let pace = pacing.interval(left, fast, now);
            pacing.answered(Queue::Device, file(1), answer, pace, now);
            pacing.ticked(now, dice);
            let pace = pacing.interval(left, fast, now);
            prop_assert!((Duration::from_millis(2400)..=S(900)).contains(&pace), "{:?}", pace);
        }
    }
}
