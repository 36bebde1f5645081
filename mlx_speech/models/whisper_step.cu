// A token of each row through all of a Whisper decoder, as one launch: as many blocks of threads as the GPU runs at
// once go through the layers together, and meet between two of them.
//
// whisper_step.py lays out what it reads. What CUDA has is in whisper_step.cuh; nothing here is CUDA's alone. WARPS, of
// a block of threads, is a multiple of four and told by whoever compiles it.
//
// R rows, W windows of audio, H heads, D width, T audio frames, C positions that the cache has room for, V vocabulary.

constexpr int WIDTH = 64;        // of a head
constexpr int PART = WIDTH + 4;  // floats of a head's share of an attention: maximum, sum, two spare, values
constexpr int SETS = 3, SET = 4;  // keys that a lane has under way: while it takes a set, the others are read
constexpr int MOST_SHARES = 8;    // of an attention's audio
constexpr float NEVER = -1e30f;

// Floats of a block's memory. For products: groups of eight rows that are summed up together, one thread a sum, from
// row to row so many that no two lanes meet in a bank. For attention: what each warp found, and keys and values.
DEVICE constexpr int together_of(int groups) { return groups < WARPS / 4 ? groups : WARPS / 4; }
constexpr int PITCH = 20;
constexpr int RING = SETS * SET * 2 * 32;  // of 16 bytes, a warp
DEVICE constexpr int memory_of(int groups) {
  const int product = 8 * together_of(groups) * PITCH + 16 * groups, attention = PART + 4 * RING;
  return WARPS * (product > attention ? product : attention);
}

template <typename T>
DEVICE void unpack8(const uint4& v, float* x, T type) {
  const float2 a = unpack(v.x, type), b = unpack(v.y, type), c = unpack(v.z, type), d = unpack(v.w, type);
  x[0] = a.x; x[1] = a.y; x[2] = b.x; x[3] = b.y;
  x[4] = c.x; x[5] = c.y; x[6] = d.x; x[7] = d.y;
}

template <typename T>
DEVICE uint4 pack8(const float* x, T type) {
  uint4 v;
  v.x = pack(x[0], x[1], type); v.y = pack(x[2], x[3], type);
  v.z = pack(x[4], x[5], type); v.w = pack(x[6], x[7], type);
  return v;
}

// --- products ------------------------------------------------------------------------------------------------

enum Kind {
  ASK,     // queries, then keys and values for whoever keeps the cache
  PLAIN,
  CURVE,   // GELU
  ONTO,    // the residual
  SCORES,  // float32
};

// A linear layer of rows. With a norm before it, of what goes in: y = (W (gain x) - mean centre) / deviation + shift,
// where centre = W gain, and shift = W offset + bias. So the norm needs no pass of its own.
template <typename T>
struct Linear {
  const T* weight;      // (outputs, inputs)
  const float* shift;   // (outputs)
  const float* centre;  // (outputs); null: no norm
  const T* gain;        // (inputs)
  int outputs, inputs;
  const T* x;  // (R, inputs)
  int rows;
  Kind kind;
  T* y;            // (R, outputs); of queries (R, D)
  const T* onto;   // (R, outputs); may be y
  T* kv;           // (2, R, D)
  float* scores;   // (R, outputs)

  DEVICE float before(int row, int o) const {
    return kind == ONTO ? read_new(onto + (long)row * outputs + o) : 0.0f;
  }
  DEVICE void after(int row, int o, float value, float residual) const {
    if (kind == SCORES) {
      scores[(long)row * outputs + o] = value;
    } else if (kind == ASK) {
      const int which = (o >= inputs) + (o >= 2 * inputs);
      T* to = which ? kv + (long)(which - 1) * rows * inputs : y;
      to[(long)row * inputs + o - which * inputs] = T(value);
    } else {
      if (kind == CURVE) value *= 0.5f * (1.0f + erff(value * 0.70710678f));
      y[(long)row * outputs + o] = T(value + residual);
    }
  }
};

// What warps read of a layer's weights and of its rows, some steps of 32 inputs at once.
template <int DEPTH, int MT>
struct Weights {
  uint4 upper[DEPTH][MT], lower[DEPTH][MT], gain[DEPTH];

  template <typename T>
  DEVICE void read(const Here& me, const Linear<T>& layer, int o0, int step, bool wanted) {
    const int o = o0 + me.lane / 4;
    const T* w = layer.weight + (long)o * layer.inputs + me.lane % 4 * 8;
    UNROLL
    for (int d = 0; d < DEPTH; ++d) {
      const int at = 32 * (step + d * WARPS);
      const bool there = wanted && at < layer.inputs;
      UNROLL
      for (int m = 0; m < MT; ++m) {
        upper[d][m] = fetch(w + 16 * m * (long)layer.inputs + at, there && o + 16 * m < layer.outputs);
        lower[d][m] = fetch(w + (16 * m + 8) * (long)layer.inputs + at, there && o + 16 * m + 8 < layer.outputs);
      }
      gain[d] = fetch(layer.gain + at + me.lane % 4 * 8, there && layer.centre);
    }
  }
};

template <int DEPTH, int NT>
struct Rows {
  uint4 x[DEPTH][NT];

  template <typename T>
  DEVICE void read(const Here& me, const Linear<T>& layer, int r0, int step, bool wanted) {
    UNROLL
    for (int d = 0; d < DEPTH; ++d) {
      const int at = 32 * (step + d * WARPS);
      const bool there = wanted && at < layer.inputs;
      UNROLL
      for (int i = 0; i < NT; ++i) {
        const int row = r0 + 8 * i + me.lane / 4;
        x[d][i] = fetch_new(layer.x + (long)row * layer.inputs + at + me.lane % 4 * 8, there && row < layer.rows);
      }
    }
  }
};

// What a tile's sums are made outputs with: it is read before they are there.
template <int MT>
struct Ends {
  float shift[MT], centre[MT];

  template <typename T>
  DEVICE void read(const Here& me, const Linear<T>& layer, int o0, bool wanted) {
    UNROLL
    for (int m = 0; m < MT; ++m) {
      const int o = o0 + 16 * m + me.thread % 16;
      shift[m] = wanted && o < layer.outputs ? layer.shift[o] : 0.0f;
      centre[m] = wanted && layer.centre && o < layer.outputs ? layer.centre[o] : 0.0f;
    }
  }
};

// 16 MT outputs and 8 NT rows a block at a time; each warp takes a share of the inputs, 32 at once.
//
// The matrix units take 16 inputs, of which a thread holds four: which ones does not matter as long as weights and
// rows agree, so that a thread reads eight neighbours at once. What nobody writes is read before the others are waited
// for, or while a tile is summed up; the next steps while one is multiplied.
template <int NT, int MT, typename T>
DEVICE void multiply_tiles(Here& me, const Linear<T>& layer) {
  constexpr int DEPTH = NT == 1 ? 5 : 1;  // steps read together
  constexpr bool AHEAD_TOO = NT > 1;  // whether the next ones are read meanwhile
  constexpr int SOME = together_of(NT), WARP_SUMS = 8 * SOME * PITCH;
  const int g = me.lane >> 2, t = me.lane & 3, o = me.thread % 16, own_row = me.thread / 16;
  const int rows = layer.rows, steps = layer.inputs / 32;
  const int high = (layer.outputs + 16 * MT - 1) / (16 * MT), tiles = high * ((rows + 8 * NT - 1) / (8 * NT));
  const bool norm = layer.centre, once = steps <= WARPS * DEPTH && NT == 1;  // the same rows for all tiles
  float* sums = me.memory;
  float2* moments = reinterpret_cast<float2*>(me.memory + WARPS * WARP_SUMS);  // (warps, rows)

  Weights<DEPTH, MT> weights;
  Rows<DEPTH, NT> in;
  Ends<MT> ends;
  weights.read(me, layer, me.block % high * 16 * MT, me.warp, me.block < tiles);
  ends.read(me, layer, me.block % high * 16 * MT, me.block < tiles);
  me.wait();
  if (once) in.read(me, layer, 0, me.warp, me.block < tiles);

  ONCE
  for (int tile = me.block; tile < tiles; tile += me.blocks) {
    const int o0 = tile % high * 16 * MT, r0 = tile / high * 8 * NT;
    float sum[NT][MT][4], one[NT], two[NT], residual[NT / SOME][MT];
    if (!once) in.read(me, layer, r0, me.warp, true);
    UNROLL
    for (int i = 0; i < NT; i += SOME) {
      const int row = r0 + 8 * i + own_row;
      UNROLL
      for (int m = 0; m < MT; ++m) {
        const bool there = own_row < 8 * SOME && row < rows && o0 + 16 * m + o < layer.outputs;
        residual[i / SOME][m] = there ? layer.before(row, o0 + 16 * m + o) : 0.0f;
      }
    }
    UNROLL
    for (int i = 0; i < NT; ++i) {
      one[i] = two[i] = 0.0f;
      UNROLL
      for (int m = 0; m < MT; ++m) sum[i][m][0] = sum[i][m][1] = sum[i][m][2] = sum[i][m][3] = 0.0f;
    }
    ONCE
    for (int step = me.warp; step < steps; step += WARPS * DEPTH) {
      const int after = step + WARPS * DEPTH;
      Weights<DEPTH, MT> next_weights;
      Rows<DEPTH, NT> next_in;
      if (AHEAD_TOO) {
        next_weights.read(me, layer, o0, after, true);
        next_in.read(me, layer, r0, after, true);
      }
      UNROLL
      for (int d = 0; d < DEPTH; ++d) {
        if (step + d * WARPS >= steps) continue;
        UNROLL
        for (int i = 0; i < NT; ++i) {
          uint4 v = in.x[d][i];
          if (norm) {
            float each[8];
            unpack8(v, each, T());
            UNROLL
            for (int j = 0; j < 8; ++j) {
              one[i] += each[j];
              two[i] += each[j] * each[j];
            }
            v.x = times(v.x, weights.gain[d].x, T()); v.y = times(v.y, weights.gain[d].y, T());
            v.z = times(v.z, weights.gain[d].z, T()); v.w = times(v.w, weights.gain[d].w, T());
          }
          UNROLL
          for (int m = 0; m < MT; ++m) {
            const uint4 a = weights.upper[d][m], b = weights.lower[d][m];
            multiply(sum[i][m], a.x, b.x, a.y, b.y, v.x, v.y, T());
            multiply(sum[i][m], a.z, b.z, a.w, b.w, v.z, v.w, T());
          }
        }
      }
      if (AHEAD_TOO) {
        weights = next_weights;
        in = next_in;
      } else if (after < steps) {
        weights.read(me, layer, o0, after, true);
        in.read(me, layer, r0, after, true);
      }
    }
    const Ends<MT> now = ends;
    const int next = tile + me.blocks;
    if (next < tiles) {
      weights.read(me, layer, next % high * 16 * MT, me.warp, true);
      ends.read(me, layer, next % high * 16 * MT, true);
    }
    if (norm) {
      UNROLL
      for (int i = 0; i < NT; ++i) {
        float a = one[i] + from_lane(one[i], 1), b = two[i] + from_lane(two[i], 1);
        a += from_lane(a, 2);
        b += from_lane(b, 2);
        if (t == 0) moments[me.warp * 8 * NT + 8 * i + g] = float2{a, b};
      }
    }
    UNROLL
    for (int m = 0; m < MT; ++m) {
      UNROLL
      for (int i0 = 0; i0 < NT; i0 += SOME) {
        if (r0 + 8 * i0 >= rows) break;
        float* mine = sums + me.warp * WARP_SUMS;
        UNROLL
        for (int i = 0; i < SOME; ++i) {
          const int row = 8 * i + 2 * t;
          mine[row * PITCH + g] = sum[i0 + i][m][0];
          mine[(row + 1) * PITCH + g] = sum[i0 + i][m][1];
          mine[row * PITCH + g + 8] = sum[i0 + i][m][2];
          mine[(row + 1) * PITCH + g + 8] = sum[i0 + i][m][3];
        }
        me.together();
        const int r = r0 + 8 * i0 + own_row;
        if (own_row < 8 * SOME && r < rows && o0 + 16 * m + o < layer.outputs) {
          float total = 0.0f, a = 0.0f, b = 0.0f;
          UNROLL
          for (int n = 0; n < WARPS; ++n) total += sums[n * WARP_SUMS + own_row * PITCH + o];
          if (norm) {
            UNROLL
            for (int n = 0; n < WARPS; ++n) {
              const float2 both = moments[n * 8 * NT + 8 * i0 + own_row];
              a += both.x;
              b += both.y;
            }
            const float mean = a / layer.inputs;
            const float spread = fmaxf(b / layer.inputs - mean * mean, 0.0f);
            total = (total - mean * now.centre[m]) * rsqrtf(spread + 1e-5f);
          }
          layer.after(r, o0 + 16 * m + o, total + now.shift[m], residual[i0 / SOME][m]);
        }
        me.together();
      }
    }
  }
  me.arrive();
}

// Rounds of tiles, each the longer the more it has to read.
template <int NT>
DEVICE int cost_of(const Here& me, int outputs, int rows, int groups) {
  const int high = (outputs + 16 * groups - 1) / (16 * groups), wide = (rows + 8 * NT - 1) / (8 * NT);
  return (high * wide + me.blocks - 1) / me.blocks * (16 * groups + 8 * NT + 30);
}

// As many groups of 16 outputs at once as cost least.
template <int NT, typename T>
DEVICE void product(Here& me, const Linear<T>& layer) {
  constexpr int MOST = NT == 1 ? 2 : 3;
  int best = 1, least = cost_of<NT>(me, layer.outputs, layer.rows, 1);
  for (int groups = 2; groups <= MOST; ++groups) {
    const int cost = cost_of<NT>(me, layer.outputs, layer.rows, groups);
    if (cost >= least) continue;
    best = groups;
    least = cost;
  }
  if (best == 1) multiply_tiles<NT, 1>(me, layer);
  if (best == 2) multiply_tiles<NT, 2>(me, layer);
  if constexpr (MOST > 2) {
    if (best == 3) multiply_tiles<NT, 3>(me, layer);
  }
}

// --- attention -----------------------------------------------------------------------------------------------

// Queries over keys and values: of a window that several rows hear, or of a row's words.
template <typename T>
struct Attention {
  const T* q;              // (R, H, WIDTH)
  const T *k, *v;          // (R / per_window, H, room, WIDTH)
  const T *own_k, *own_v;  // (R, H, WIDTH): the last ones, that were written in this launch; null: none
  int rows, heads, per_window, room;
  int count;   // keys, with that one
  int shares;  // into which they are cut
  T* y;        // (R, H, WIDTH), of one share
  float* part;  // (R, H, shares, PART), of more

  DEVICE long place(int unit) const {
    const int row = unit / heads;
    return (long)(row / per_window * heads + unit - row * heads) * room * WIDTH;
  }
  DEVICE int start(int share) const { return count * share / shares; }
};

// How many warps take a head together: the fewest rounds of reading, and of putting together.
DEVICE int team_for(const Here& me, int units, int keys) {
  int best = 1, least = 1 << 30;
  for (int team = 1; team <= WARPS; team *= 2) {
    const int each = me.blocks * WARPS / team, reads = 32 * team;
    const int cost = (units + each - 1) / each * (3 * ((keys + reads - 1) / reads) + (team > 1 ? 5 : 3));
    if (cost < least) {
      least = cost;
      best = team;
    }
  }
  return best;
}

// Keys and values that were there before the launch, eight numbers of each, on their way to the block's memory.
template <typename T>
DEVICE void read_keys(const Attention<T>& a, const T* k, const T* v, int from, int group, int stride, int end, int at,
                      uint4* slot) {
  if (from < end) {
    UNROLL
    for (int n = 0; n < SET; ++n) {
      const int number = from + stride * n + group;
      const bool old = number < end && !(a.own_k && number == a.count - 1);
      copy(slot + 64 * n, k + (long)number * WIDTH + at, old);
      copy(slot + 64 * n + 32, v + (long)number * WIDTH + at, old);
    }
  }
  end_copies();
}

// A team of warps takes a row's head, or one of several shares of its keys; eight lanes a key.
template <typename T>
DEVICE void attention(Here& me, const Attention<T>& a, int team) {
  const int teams = WARPS / team, mine = me.warp / team, member = me.warp % team;
  const int group = me.lane >> 3, at = (me.lane & 7) * 8, stride = 4 * team;
  const int units = a.rows * a.heads * a.shares;
  const float scale = 0.125f * 1.44269504f;  // 1 / sqrt(WIDTH), and powers of two instead of e's
  uint4* const ring = reinterpret_cast<uint4*>(me.memory + WARPS * PART) + me.warp * RING + me.lane;
  bool waited = false;
  ONCE
  for (int first = me.block * teams; first < units || !waited; first += me.blocks * teams) {
    const bool busy = first + mine < units;
    const int unit = busy ? (first + mine) / a.shares : 0, share = busy ? first + mine - unit * a.shares : 0;
    const T *k = a.k + a.place(unit), *v = a.v + a.place(unit);
    const int end = busy ? a.start(share + 1) : 0;
    int from = busy ? a.start(share) + 4 * member : 0, place = 0;
    float top = NEVER, sum = 0.0f, values[8], asked[8];
    UNROLL
    for (int j = 0; j < 8; ++j) values[j] = 0.0f;
    UNROLL
    for (int n = 0; n < SETS; ++n) {
      read_keys(a, k, v, from + stride * SET * n, group, stride, end, at, ring + 64 * SET * n);
    }
    if (!waited) {
      me.wait();
      waited = true;
    }
    const uint4 question = fetch_new(a.q + (long)unit * WIDTH + at, true);
    uint4 own_key{}, own_value{};
    if (a.own_k) {
      own_key = fetch_new(a.own_k + (long)unit * WIDTH + at, true);
      own_value = fetch_new(a.own_v + (long)unit * WIDTH + at, true);
    }
    unpack8(question, asked, T());
    UNROLL
    for (int j = 0; j < 8; ++j) asked[j] *= scale;
    ONCE
    for (; from < end; from += stride * SET) {
      uint4 *const slot = ring + 64 * SET * place, value[SET];
      float score[SET], highest = top;
      wait_for_copies<SETS - 1>();
      UNROLL
      for (int n = 0; n < SET; ++n) {
        const int number = from + stride * n + group;
        const bool own = a.own_k && number == a.count - 1;
        const uint4 key = own ? own_key : slot[64 * n];
        value[n] = own ? own_value : slot[64 * n + 32];
        float each[8], one = 0.0f;
        unpack8(key, each, T());
        UNROLL
        for (int j = 0; j < 8; ++j) one += each[j] * asked[j];
        one += from_lane(one, 1);
        one += from_lane(one, 2);
        one += from_lane(one, 4);
        score[n] = number < end ? one : NEVER;
        highest = fmaxf(highest, score[n]);
      }
      read_keys(a, k, v, from + stride * SET * SETS, group, stride, end, at, slot);
      place = place + 1 == SETS ? 0 : place + 1;
      const float less = power_of_2(top - highest);
      top = highest;
      sum *= less;
      UNROLL
      for (int j = 0; j < 8; ++j) values[j] *= less;
      UNROLL
      for (int n = 0; n < SET; ++n) {
        const float weight = score[n] > NEVER ? power_of_2(score[n] - top) : 0.0f;
        float each[8];
        unpack8(value[n], each, T());
        sum += weight;
        UNROLL
        for (int j = 0; j < 8; ++j) values[j] += weight * each[j];
      }
    }
    UNROLL
    for (int distance = 8; distance < 32; distance *= 2) {
      const float other = from_lane(top, distance), highest = fmaxf(top, other);
      const float less = power_of_2(top - highest), theirs = power_of_2(other - highest);
      sum = sum * less + from_lane(sum, distance) * theirs;
      UNROLL
      for (int j = 0; j < 8; ++j) values[j] = values[j] * less + from_lane(values[j], distance) * theirs;
      top = highest;
    }
    // the warps of a team put together what they found; then a thread takes one of the head's values, of two or one
    float* own = me.memory + me.warp * PART;
    if (group == 0) {
      UNROLL
      for (int j = 0; j < 8; ++j) own[4 + at + j] = values[j];
      own[0] = top;
      own[1] = sum;
    }
    me.together();
    const float* all = me.memory + mine * team * PART;
    float weights[WARPS];
    top = NEVER;
    sum = 0.0f;
    UNROLL
    for (int n = 0; n < WARPS; ++n) top = fmaxf(top, n < team ? all[n * PART] : NEVER);
    UNROLL
    for (int n = 0; n < WARPS; ++n) {
      weights[n] = n < team ? power_of_2(all[n * PART] - top) : 0.0f;
      sum += n < team ? weights[n] * all[n * PART + 1] : 0.0f;
    }
    ONCE
    for (int d = member * 32 + me.lane; busy && d < WIDTH; d += team * 32) {
      float one = 0.0f;
      UNROLL
      for (int n = 0; n < WARPS; ++n) one += n < team ? weights[n] * all[n * PART + 4 + d] : 0.0f;
      if (a.shares > 1) {
        float* to = a.part + (long)(first + mine) * PART;
        if (d < 2) to[d] = d ? sum : top;
        to[4 + d] = one;
      } else {
        a.y[(long)unit * WIDTH + d] = T(one / sum);
      }
    }
    me.together();
  }
  me.arrive();
}

// Put the shares of each row's head together: (R, D). Eight lanes a head.
template <typename T>
DEVICE void gather(Here& me, const float* part, T* y, int units, int shares) {
  const int at = me.thread % 8 * 8;
  me.wait();
  for (int unit = me.block * WARPS * 4 + me.thread / 8; unit < units; unit += me.blocks * WARPS * 4) {
    const float* from = part + (long)unit * shares * PART;
    float top[MOST_SHARES], highest = NEVER, sum = 0.0f, x[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    uint4 about[MOST_SHARES], v[MOST_SHARES][2];
    UNROLL
    for (int n = 0; n < MOST_SHARES; ++n) {
      about[n] = fetch_new(from + n * PART, n < shares);
      v[n][0] = fetch_new(from + n * PART + 4 + at, n < shares);
      v[n][1] = fetch_new(from + n * PART + 8 + at, n < shares);
    }
    UNROLL
    for (int n = 0; n < MOST_SHARES; ++n) {
      top[n] = n < shares ? as_float(about[n].x) : NEVER;
      highest = fmaxf(highest, top[n]);
    }
    UNROLL
    for (int n = 0; n < MOST_SHARES; ++n) {
      const float weight = power_of_2(top[n] - highest);
      sum += weight * as_float(about[n].y);
      UNROLL
      for (int j = 0; j < 2; ++j) {
        x[4 * j] += weight * as_float(v[n][j].x); x[4 * j + 1] += weight * as_float(v[n][j].y);
        x[4 * j + 2] += weight * as_float(v[n][j].z); x[4 * j + 3] += weight * as_float(v[n][j].w);
      }
    }
    UNROLL
    for (int j = 0; j < 8; ++j) x[j] /= sum;
    *reinterpret_cast<uint4*>(y + (long)unit * WIDTH + at) = pack8(x, T());
  }
  me.arrive();
}

// --- the step ------------------------------------------------------------------------------------------------

template <typename T>
struct Step {
  const int* tokens;      // (R)
  const T* embedding;     // (V, D)
  const T* positions;     // (contexts, D)
  const T* const* weights;  // (layers): (14 D D) each: joined queries, keys and values; out; query; out; fc1; fc2
  const T* gains;         // (3 layers + 1, D): of the norms
  const float* vectors;   // (layers, 19 D): shifts and centres, as they are taken below
  const float* ends;      // (2, V): the vocabulary's
  const T* cache;         // (layers, 2, R, H, C, WIDTH)
  const T* const* audio;  // (layers, 2): (W, H, T, WIDTH) each
  float* scores;          // (R, V)
  T* kv;                  // (layers, 2, R, D): this token's keys and values
  T* room;                // (7, R, D)
  float* part;            // (R, H, shares, PART)
  int rows, windows, heads, layers, length, capacity, frames, shares, vocabulary;
};

template <typename T>
DEVICE void embed(Here& me, const Step<T>& s, T* x) {
  const int width = s.heads * WIDTH, count = s.rows * width / 8;
  for (int n = me.block * 32 * WARPS + me.thread; n < count; n += me.blocks * 32 * WARPS) {
    const int row = n * 8 / width, at = n * 8 - row * width;
    float word[8], place[8];
    unpack8(fetch(s.embedding + (long)s.tokens[row] * width + at, true), word, T());
    unpack8(fetch(s.positions + (long)s.length * width + at, true), place, T());
    UNROLL
    for (int j = 0; j < 8; ++j) word[j] += place[j];
    *reinterpret_cast<uint4*>(x + (long)n * 8) = pack8(word, T());
  }
  me.arrive();
}

template <int NT, typename T>
DEVICE void step(Here& me, const Step<T>& s) {
  const int width = s.heads * WIDTH, rows = s.rows;
  const long square = (long)width * width, plane = (long)rows * width;
  T *x = s.room, *q = x + plane, *found = q + plane, *inner = found + plane;
  const int word_team = team_for(me, rows * s.heads, s.length + 1);
  const int audio_team = team_for(me, rows * s.heads * s.shares, s.frames / s.shares);

  embed(me, s, x);
  STAMP
  ONCE
  for (int n = 0; n < s.layers; ++n) {
    const T *w = s.weights[n], *gain = s.gains + n * 3 * width;
    const float* f = s.vectors + n * 19 * width;
    T* kv = s.kv + n * 2 * plane;
    const T* k = s.cache + n * 2 * plane * s.capacity;
    Attention<T> audio{q, s.audio[2 * n], s.audio[2 * n + 1], nullptr, nullptr, rows, s.heads, rows / s.windows,
                       s.frames, s.frames, s.shares, found, s.part};
    ONCE
    for (int part = 0; part < 8; ++part) {
      if (part == 1 || part == 4) {
        Attention<T> a = audio;
        if (part == 1) {
          a.k = k; a.v = k + plane * s.capacity; a.own_k = kv; a.own_v = kv + plane;
          a.per_window = a.shares = 1;
          a.room = s.capacity; a.count = s.length + 1;
        }
        attention(me, a, part == 1 ? word_team : audio_team);
        if (part == 4 && s.shares > 1) gather(me, s.part, found, rows * s.heads, s.shares);
      } else {
        Linear<T> layer{w, f, nullptr, nullptr, width, width, x, rows, PLAIN, q, x, kv, nullptr};
        if (part == 0) {  // queries, keys and values
          layer.centre = f + 3 * width; layer.gain = gain; layer.outputs = 3 * width; layer.kind = ASK;
        } else if (part == 2) {  // what was found among the words
          layer.weight = w + 3 * square; layer.shift = f + 6 * width;
          layer.x = found; layer.y = x; layer.kind = ONTO;
        } else if (part == 3) {  // what is asked of the audio
          layer.weight = w + 4 * square; layer.shift = f + 7 * width; layer.centre = f + 8 * width;
          layer.gain = gain + width;
        } else if (part == 5) {  // and what was found there
          layer.weight = w + 5 * square; layer.shift = f + 9 * width;
          layer.x = found; layer.y = x; layer.kind = ONTO;
        } else if (part == 6) {
          layer.weight = w + 6 * square; layer.shift = f + 10 * width; layer.centre = f + 14 * width;
          layer.gain = gain + 2 * width; layer.outputs = 4 * width; layer.y = inner; layer.kind = CURVE;
        } else {
          layer.weight = w + 10 * square; layer.shift = f + 18 * width; layer.inputs = 4 * width;
          layer.x = inner; layer.y = x; layer.kind = ONTO;
        }
        product<NT>(me, layer);
      }
      STAMP
    }
  }
  product<NT>(me, Linear<T>{s.embedding, s.ends, s.ends + s.vocabulary, s.gains + 3 * s.layers * width, s.vocabulary,
                            width, x, rows, SCORES, nullptr, nullptr, nullptr, s.scores});
  STAMP
}
