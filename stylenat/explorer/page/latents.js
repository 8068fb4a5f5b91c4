// The latents of seeds, as PyTorch and NumPy draw them on a CPU: both from a Mersenne Twister.
// Logarithm and cosine are this browser's, so that values may differ in the last digit.

class Twister {
  constructor(seed) {
    this.state = new Uint32Array(624);
    this.state[0] = seed;
    for (let i = 1; i < 624; i++) {
      const previous = this.state[i - 1] ^ (this.state[i - 1] >>> 30);
      this.state[i] = Math.imul(1812433253, previous) + i;
    }
    this.place = 624;
  }

  next() { // 32 bits
    const state = this.state;
    if (this.place === 624) {
      for (let i = 0; i < 624; i++) {
        const y = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
        state[i] = state[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      this.place = 0;
    }
    let y = state[this.place++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }
}

const f = Math.fround;

// torch.randn of at least 16 values: uniform numbers of 24 bits, then Box-Muller in blocks of 16.
function torchLong(twister, count) {
  const uniform = () => (twister.next() & 0xffffff) / 2 ** 24;
  const z = Float32Array.from({ length: count }, uniform);
  const normal = (start) => {
    for (let i = start; i < start + 8; i++) {
      const radius = f(Math.sqrt(f(-2 * f(Math.log(f(1 - z[i]))))));
      const theta = f(2 * Math.PI * z[i + 8]);
      [z[i], z[i + 8]] = [radius * f(Math.cos(theta)), radius * f(Math.sin(theta))];
    }
  };
  for (let start = 0; start + 16 <= count; start += 16) normal(start);
  if (count % 16) { // the last 16 are drawn anew
    for (let i = count - 16; i < count; i++) z[i] = uniform();
    normal(count - 16);
  }
  return z;
}

// torch.randn of fewer: Box-Muller in float64, two values a draw.
function torchShort(twister, count) {
  const uniform = () => {
    const [high, low] = [BigInt(twister.next()), BigInt(twister.next())];
    return Number(((high << 32n) | low) & ((1n << 53n) - 1n)) / 2 ** 53;
  };
  const z = new Float32Array(count);
  for (let i = 0; i < count; i += 2) {
    const theta = 2 * Math.PI * uniform();
    const radius = Math.sqrt(-2 * Math.log1p(-uniform()));
    z[i] = radius * Math.cos(theta);
    if (i + 1 < count) z[i + 1] = radius * Math.sin(theta);
  }
  return z;
}

// numpy.random.RandomState(seed).randn: the polar method, of which the second value comes first.
function numpy(twister, count) {
  const uniform = () => ((twister.next() >>> 5) * 67108864 + (twister.next() >>> 6)) / 9007199254740992;
  const z = new Float32Array(count);
  for (let i = 0; i < count; i += 2) {
    let a, b, square;
    do {
      [a, b] = [2 * uniform() - 1, 2 * uniform() - 1];
      square = a * a + b * b;
    } while (square >= 1 || square === 0);
    const scale = Math.sqrt(-2 * Math.log(square) / square);
    z[i] = scale * b;
    if (i + 1 < count) z[i + 1] = scale * a;
  }
  return z;
}

// z [count] of a seed from 0 to 2^32 - 1. `scheme` is torch or stylegan, as in `stylenat sample`.
export function latent(seed, count, scheme) {
  const twister = new Twister(seed);
  if (scheme === "stylegan") return numpy(twister, count);
  return count < 16 ? torchShort(twister, count) : torchLong(twister, count);
}
