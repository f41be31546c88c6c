//! Planets that attract each other.

#[derive(Clone)]
struct Body {
    at: [f64; 3],
    speed: [f64; 3],
    mass: f64,
}

fn advance(bodies: &mut [Body], time: f64) {
    for left in 0..bodies.len() {
        for right in left + 1..bodies.len() {
            let delta: [f64; 3] = std::array::from_fn(|axis| bodies[left].at[axis] - bodies[right].at[axis]);
            let square: f64 = delta.iter().map(|part| part * part).sum();
            let pull = time / (square * square.sqrt());
            let (left_mass, right_mass) = (bodies[left].mass, bodies[right].mass);
            for axis in 0..3 {
                bodies[left].speed[axis] -= delta[axis] * right_mass * pull;
                bodies[right].speed[axis] += delta[axis] * left_mass * pull;
            }
        }
    }
    for body in bodies {
        for axis in 0..3 {
            body.at[axis] += time * body.speed[axis];
        }
    }
}

/// How often it does its work: the first argument, or once.
fn rounds() -> u32 {
    std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(1)
}

fn main() {
    for _ in 0..rounds() {
        work();
    }
}

fn work() {
    let mut bodies: Vec<Body> = (1..6)
        .map(|index| {
            let place = f64::from(index);
            Body {
                at: [place * 3.0, place.sin(), place.cos() * 2.0],
                speed: [0.1 * place, -0.2, 0.05 * place],
                mass: 10.0 / place,
            }
        })
        .collect();
    for _ in 0..3_000 {
        advance(&mut bodies, 0.01);
    }
    for body in &bodies {
        println!("{:?} {:?}", body.at, body.speed);
    }
}
