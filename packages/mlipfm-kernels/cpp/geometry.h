// Radial functions and real spherical harmonics of vectors to neighbours, with one vector in each lane. N is `vec`, or `Dual` for changes of both.
#pragma once
#include "vectors.h"

namespace {

constexpr double PI = 3.14159265358979323846;
constexpr double S3 = 1.7320508075688772935, S38 = 0.61237243569579452455, S58 = 0.79056941504209483300, S15 = 3.8729833462074168852;

// A number and its change along a direction.
struct Dual { vec at, by; };
INLINE Dual operator+(Dual a, Dual b) { return {a.at + b.at, a.by + b.by}; }
INLINE Dual operator-(Dual a, Dual b) { return {a.at - b.at, a.by - b.by}; }
INLINE Dual operator-(Dual a) { return {-a.at, -a.by}; }
INLINE Dual operator*(Dual a, Dual b) { return {a.at * b.at, a.by * b.at + a.at * b.by}; }
INLINE Dual operator*(real a, Dual b) { return {a * b.at, a * b.by}; }
INLINE Dual operator*(Dual a, real b) { return b * a; }
INLINE Dual operator+(Dual a, real b) { return {a.at + b, a.by}; }
INLINE Dual operator-(real a, Dual b) { return {a - b.at, -b.by}; }
INLINE Dual operator/(real a, Dual b) { const vec q = a / b.at; return {q, -q * b.by / b.at}; }
INLINE Dual &operator+=(Dual &a, Dual b) { return a = a + b; }
INLINE Dual &operator*=(Dual &a, Dual b) { return a = a * b; }
INLINE Dual root(Dual a) { const vec r = root(a.at); return {r, a.by / (r + r)}; }
INLINE vec positive(vec a) { return pick(a > real(0), a, vec{}); }
INLINE Dual positive(Dual a) { return {pick(a.at > real(0), a.at, vec{}), pick(a.at > real(0), a.by, vec{})}; }
template <class N> INLINE N constant(real a);
template <> inline __attribute__((always_inline)) vec constant<vec>(real a) { return all(a); }
template <> inline __attribute__((always_inline)) Dual constant<Dual>(real a) { return {all(a), vec{}}; }
template <int n> INLINE Dual polynomial(Dual x, const double (&c)[n]) {
  Dual p = constant<Dual>(real(c[n - 1]));
#pragma GCC unroll 32
  for (int k = n - 2; k >= 0; k--) p = p * x + real(c[k]);
  return p;
}

// sin and cos of pi x, 0 <= x <= 1: of y = pi (x - 1/2) they are cos y and -sin y.
INLINE void sine_cosine(vec x, vec &s, vec &c) {
  const double cs[] = {1, -1 / 6., 1 / 120., -1 / 5040., 1 / 362880., -1 / 39916800., 1 / 6227020800., -1 / 1307674368000., 1 / 355687428096000., -1 / 121645100408832000., 1 / 51090942171709440000.};
  const double cc[] = {1, -1 / 2., 1 / 24., -1 / 720., 1 / 40320., -1 / 3628800., 1 / 479001600., -1 / 87178291200., 1 / 20922789888000., -1 / 6402373705728000., 1 / 2432902008176640000., -1 / 1124000727777607680000.};
  const vec y = real(PI) * (x - real(.5)), y2 = y * y;
  if constexpr (sizeof(real) == 4) {
    const double ss[] = {cs[0], cs[1], cs[2], cs[3], cs[4], cs[5]}, sc[] = {cc[0], cc[1], cc[2], cc[3], cc[4], cc[5], cc[6]};
    s = polynomial(y2, sc); c = -y * polynomial(y2, ss);
  } else {
    s = polynomial(y2, cc); c = -y * polynomial(y2, cs);
  }
}
INLINE void sine_cosine(Dual x, Dual &s, Dual &c) {
  sine_cosine(x.at, s.at, c.at);
  const vec turn = real(PI) * x.by;
  s.by = c.at * turn; c.by = -s.at * turn;
}

// Y[(L + 1)^2] of the unit vector (x, y, z).
template <int L, class N> INLINE void harmonics(N x, N y, N z, N *Y) {
  Y[0] = constant<N>(1); Y[1] = x; Y[2] = y; Y[3] = z;
  if constexpr (L >= 2) {
    const N xx = x * x, yy = y * y, zz = z * z, xy = x * y;
    Y[4] = real(S3) * xy; Y[5] = real(S3) * y * z; Y[6] = zz - real(.5) * (xx + yy); Y[7] = real(S3) * x * z; Y[8] = real(S3 / 2) * (xx - yy);
    if constexpr (L >= 3) {
      const N four = real(4) * zz - xx - yy;
      Y[9] = real(S58) * y * (real(3) * xx - yy); Y[10] = real(S15) * xy * z; Y[11] = real(S38) * y * four;
      Y[12] = z * (zz - real(1.5) * (xx + yy)); Y[13] = real(S38) * x * four;
      Y[14] = real(S15 / 2) * z * (xx - yy); Y[15] = real(S58) * x * (xx - real(3) * yy);
    }
  }
}
// Gradient of the sum of D(k) Y[k] by x, y and z, each by itself.
template <int L, class N, class Factor> INLINE void harmonics_gradient(const Factor &D, N x, N y, N z, N &gx, N &gy, N &gz) {
  gx = D(1); gy = D(2); gz = D(3);
  if constexpr (L >= 2) {
    const N d4 = real(S3) * D(4), d5 = real(S3) * D(5), d6 = D(6), d7 = real(S3) * D(7), d8 = real(S3) * D(8);
    gx += d4 * y - d6 * x + d7 * z + d8 * x;
    gy += d4 * x + d5 * z - d6 * y - d8 * y;
    gz += d5 * y + real(2) * d6 * z + d7 * x;
  }
  if constexpr (L >= 3) {
    const N xx = x * x, yy = y * y, zz = z * z, xy = x * y, yz = y * z, xz = x * z, difference = xx - yy;
    const N d9 = real(3 * S58) * D(9), d10 = real(S15) * D(10), d11 = real(S38) * D(11), d12 = D(12), d13 = real(S38) * D(13),
            d14 = real(S15) * D(14), d15 = real(3 * S58) * D(15);
    gx += real(2) * d9 * xy + d10 * yz - real(2) * d11 * xy - real(3) * d12 * xz + d13 * (real(4) * zz - real(3) * xx - yy) + d14 * xz + d15 * difference;
    gy += d9 * difference + d10 * xz + d11 * (real(4) * zz - xx - real(3) * yy) - real(3) * d12 * yz - real(2) * d13 * xy - d14 * yz - real(2) * d15 * xy;
    gz += d10 * xy + real(8) * d11 * yz + d12 * (real(3) * zz - real(1.5) * (xx + yy)) + real(8) * d13 * xz + real(.5) * d14 * difference;
  }
}

// R_n = sqrt(2/r_c) sin(n pi r/r_c)/r for n = 1 to functions - 1, then a one, all times the envelope: take(index, R, dR/dr). q is 1/r.
template <class N, class Take> INLINE void radial_functions(N r, N q, double cutoff, int functions, const Take &take) {
  const real inverse_cutoff = real(1 / cutoff), front = real(__builtin_sqrt(2 / cutoff));
  const N t = r * inverse_cutoff, rest = positive(real(1) - t);
  const double series[] = {1, 3, 6, 10, 15, 21};
  const N t2 = t * t, envelope = rest * rest * rest * polynomial(t, series);
  const N fall = real(-168) * (t2 * t2 * t) * (rest * rest) * inverse_cutoff;
  N s, c, before_s = constant<N>(0), before_c = constant<N>(1);
  sine_cosine(t, s, c);
  const N two = c + c, scale = front * q;
  for (int n = 1; n < functions; n++) {
    const N value = scale * s, slope = scale * (real(n * PI) * inverse_cutoff) * c - value * q;
    take(n - 1, value * envelope, slope * envelope + value * fall);
    const N next_s = two * s - before_s, next_c = two * c - before_c;
    before_s = s; before_c = c; s = next_s; c = next_c;
  }
  take(functions - 1, envelope, fall);
}

}  // namespace
