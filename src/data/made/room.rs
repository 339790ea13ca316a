//! A ray caster: a room of planes with balls on its floor, as a pinhole camera sees it.
//!
//! Coordinates are the camera's, in metres: x to the right, y down, z ahead. A ray goes through
//! `(x, y, 1) · z`, so that how far along it something lies is its depth.

use distill_base::draws::Draws;

pub(super) type Vector = [f64; 3];

/// What is seen.
pub(super) struct Room {
    floor: Plane,
    wall: Plane,
    balls: Vec<Ball>,
    /// Where light comes from.
    light: Vector,
}

/// All points whose product with `normal` is `offset`.
struct Plane {
    normal: Vector,
    offset: f64,
    surface: Surface,
}

struct Ball {
    centre: Vector,
    radius: f64,
    surface: Surface,
}

/// Checks of two colours, whose size in metres is the same in every room: so their size in pixels tells how far
/// away they are.
struct Surface {
    colours: [Vector; 2],
    /// The directions of the checks.
    axes: [Vector; 2],
    side: f64,
}

/// What a ray meets first.
pub(super) struct Hit {
    /// Metres along the camera's axis.
    pub depth: f64,
    /// Red, green and blue in `[0, 1]`.
    pub colour: Vector,
}

/// Side of the checks of planes and of balls, in metres.
const CHECKS: [f64; 2] = [0.5, 0.15];
/// Part of the light that comes from everywhere.
const AMBIENT: f64 = 0.35;

impl Room {
    /// A room like no other: the camera's height and tilt, the wall's distance, two to five balls, colours, and
    /// light.
    pub fn drawn(draws: &mut Draws) -> Self {
        let mut between = |from: f64, to: f64| from + (to - from) * draws.uniform();
        let tilt = between(-0.05, 0.3);
        // Down and ahead, as the tilted camera has them.
        let (down, ahead) = ([0.0, tilt.cos(), -tilt.sin()], [0.0, tilt.sin(), tilt.cos()]);
        let right = [1.0, 0.0, 0.0];
        let (height, distance) = (between(1.0, 1.8), between(3.5, 7.0));
        let mut surface = |axes, side| Surface {
            colours: [(); 2].map(|()| [(); 3].map(|()| between(0.1, 1.0))),
            axes,
            side,
        };
        let floor =
            Plane { normal: down, offset: height, surface: surface([right, ahead], CHECKS[0]) };
        let wall =
            Plane { normal: ahead, offset: distance, surface: surface([right, down], CHECKS[0]) };
        let surfaces: Vec<Surface> = (0..5).map(|_| surface([right, down], CHECKS[1])).collect();
        let light = [between(-2.0, 2.0), between(-2.0, -0.5), between(0.0, 2.0)];
        let count = 2 + draws.below(4) as usize;
        let ball = |surface: Surface| {
            let mut between = |from: f64, to: f64| from + (to - from) * draws.uniform();
            let radius = between(0.2, 0.6);
            let far = between(1.6, distance - radius);
            let aside = between(-0.5, 0.5) * far;
            let centre = sum(scaled(right, aside), scaled(down, height - radius));
            Ball { centre: sum(centre, scaled(ahead, far)), radius, surface }
        };
        let balls = surfaces.into_iter().take(count).map(ball).collect();
        Self { floor, wall, balls, light }
    }

    /// What the ray through `(x, y, 1)` meets. Every ray of a camera that looks at the wall meets something.
    pub fn look(&self, x: f64, y: f64) -> Hit {
        let ray = [x, y, 1.0];
        let planes = [&self.floor, &self.wall].into_iter().filter_map(|plane| {
            let depth = plane.depth(ray)?;
            Some((depth, plane.normal, &plane.surface, [0.0; 3]))
        });
        let balls = self.balls.iter().filter_map(|ball| {
            let depth = ball.depth(ray)?;
            let outward = difference(scaled(ray, depth), ball.centre);
            Some((depth, scaled(outward, 1.0 / ball.radius), &ball.surface, ball.centre))
        });
        let nearest =
            planes.chain(balls).reduce(|one, other| if other.0 < one.0 { other } else { one });
        let Some((depth, normal, surface, origin)) = nearest else {
            return Hit { depth: f64::INFINITY, colour: [0.0; 3] };
        };
        let point = scaled(ray, depth);
        let to_light = difference(self.light, point);
        // A plane has two sides, and light is on the camera's.
        let slope = product(normal, to_light).abs() / length(to_light);
        let light = AMBIENT + (1.0 - AMBIENT) * slope;
        Hit { depth, colour: scaled(surface.at(difference(point, origin)), light) }
    }
}

impl Plane {
    fn depth(&self, ray: Vector) -> Option<f64> {
        let towards = product(self.normal, ray);
        (towards > 1e-9).then(|| self.offset / towards)
    }
}

impl Ball {
    /// The nearer root of |ray · t − centre|² = radius².
    fn depth(&self, ray: Vector) -> Option<f64> {
        let (a, b) = (product(ray, ray), product(ray, self.centre));
        let c = product(self.centre, self.centre) - self.radius * self.radius;
        let root = b * b - a * c;
        let depth = (b - root.max(0.0).sqrt()) / a;
        (root >= 0.0 && depth > 0.0).then_some(depth)
    }
}

impl Surface {
    fn at(&self, point: Vector) -> Vector {
        let check = |axis: Vector| (product(axis, point) / self.side).floor() as i64;
        self.colours[self.axes.iter().map(|&axis| check(axis)).sum::<i64>().rem_euclid(2) as usize]
    }
}

fn product(a: Vector, b: Vector) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn length(a: Vector) -> f64 {
    product(a, a).sqrt()
}

fn scaled(a: Vector, by: f64) -> Vector {
    a.map(|one| one * by)
}

pub(super) fn sum(a: Vector, b: Vector) -> Vector {
    [a[0] + b[0], a[1] + b[1], a[2] + b[2]]
}

fn difference(a: Vector, b: Vector) -> Vector {
    sum(a, scaled(b, -1.0))
}

#[cfg(test)]
mod tests {
    use distill_base::draws::Purpose;

    use super::*;

    fn surface(level: f64) -> Surface {
        let axes = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]];
        Surface { colours: [[level; 3]; 2], axes, side: 0.5 }
    }

    /// A level camera 1.5 m above the floor and 6 m before the wall, and one ball straight ahead.
    fn room(balls: Vec<Ball>) -> Room {
        Room {
            floor: Plane { normal: [0.0, 1.0, 0.0], offset: 1.5, surface: surface(0.5) },
            wall: Plane { normal: [0.0, 0.0, 1.0], offset: 6.0, surface: surface(0.5) },
            balls,
            light: [0.0, -1.0, 0.0],
        }
    }

    fn ball(depth: f64, radius: f64) -> Ball {
        Ball { centre: [0.0, 0.0, depth], radius, surface: surface(1.0) }
    }

    /// Depths are those of geometry, and the nearest thing is what is seen.
    #[test]
    fn depths_are_exact() {
        let empty = room(vec![]);
        assert_eq!(empty.look(0.0, 0.0).depth, 6.0);
        assert_eq!(empty.look(0.3, -0.4).depth, 6.0, "a wall's depth is the same everywhere");
        assert_eq!(empty.look(0.2, 0.5).depth, 1.5 / 0.5);
        let with = room(vec![ball(5.0, 0.5), ball(3.0, 0.25)]);
        assert!((with.look(0.0, 0.0).depth - 2.75).abs() < 1e-12);
        // Beside the nearer ball, whose rim is at 0.25 / √(9 − 0.0625) = 0.0837, is the farther one.
        assert!((2.75..3.0).contains(&with.look(0.083, 0.0).depth));
        assert!((4.5..5.0).contains(&with.look(0.085, 0.0).depth));
        assert_eq!(with.look(0.2, 0.0).depth, 6.0);
        let behind = room(vec![ball(-3.0, 0.25)]);
        assert_eq!(behind.look(0.0, 0.0).depth, 6.0);
    }

    /// Whatever is drawn, every ray of the camera meets something between its eye and ten metres.
    #[test]
    fn drawn_rooms_are_closed() {
        for number in 0..200 {
            let room = Room::drawn(&mut Draws::new(1, Purpose::Scene, 0, number));
            assert!((2..=5).contains(&room.balls.len()));
            for place in 0..400 {
                let (x, y) =
                    (f64::from(place % 20) / 19.0 - 0.5, f64::from(place / 20) / 19.0 - 0.5);
                let Hit { depth, colour } = room.look(x, y);
                assert!((0.5..10.0).contains(&depth), "room {number} at {x}, {y}: {depth}");
                assert!(colour.iter().all(|level| (0.0..=1.0).contains(level)));
            }
        }
    }
}
