// A user of the Node SDK who is refused: keys, models, limits, budgets. Retries are as the SDK has them by itself.
//
//     NODE_PATH=.venv-node/node_modules node refusals.cjs BASE_URL WHO [SCENARIO ...]
//
// The scenarios are those of program_refusals.py, and what is said there holds here.
'use strict';

const OpenAI = require('openai');

const MODEL = 'small';
const LONG = 'hello there '.repeat(400);

const [baseURL, who, ...names] = process.argv.slice(2);
const keyOf = (name) => `sk-${who}-${name}-0123456789`;
const as = (name, options = {}) => new OpenAI({ baseURL, apiKey: keyOf(name), ...options });

const body = (more) => ({ model: MODEL, messages: [{ role: 'user', content: 'hello there' }], ...more });
const ask = (client, more = {}) => client.chat.completions.create(body(more));
const picked = (headers, ...begins) =>
  Object.fromEntries([...headers].filter(([name]) => begins.some((begin) => name.startsWith(begin))));

// The exception that a call raises, as a `catch` clause sees it, and how long it took to come.
async function refused(call) {
  const began = performance.now();
  try {
    await call();
  } catch (error) {
    const { status, type, code, param, requestID, headers } = error;
    return {
      class: error.constructor.name,
      status,
      type,
      code,
      param,
      message: error.error.message,
      request_id: requestID,
      headers: picked(headers, 'x-', 'retry-'),
      seconds: (performance.now() - began) / 1000,
    };
  }
  return { class: null };
}

const denied = (name, more) => refused(() => ask(as(name), more));

// Once within the limit, twice beyond it, and once more with patience.
async function limited(name) {
  const hasty = as(name, { maxRetries: 0 });
  const first = await ask(hasty).asResponse();
  await first.text();
  const beyond = [await refused(() => ask(hasty)), await refused(() => ask(hasty, { stream: true }))];
  const began = performance.now();
  const again = await ask(as(name));
  return {
    first: picked(first.headers, 'x-ratelimit-'),
    beyond,
    again: { text: again.choices[0].message.content, seconds: (performance.now() - began) / 1000 },
  };
}

const SCENARIOS = {
  no_key: () => refused(() => ask(as('free', { defaultHeaders: { Authorization: null } }))),
  wrong_key: () => denied('nobody'),
  expired_key: () => denied('expired'),
  disabled_key: () => denied('disabled'),
  model: () => denied('bound'),
  model_streamed: () => denied('bound', { stream: true }),
  endpoint: () => denied('embeds'),
  no_endpoint: () => refused(() => as('free').images.generate({ model: MODEL, prompt: 'hello there' })),
  requests: () => limited('requests'),
  tokens: () => limited('tokens'),

  // One call under way, another one beside it, and one with patience.
  async at_once() {
    const stream = (await ask(as('parallel'), { model: 'slow', stream: true }))[Symbol.asyncIterator]();
    let text = (await stream.next()).value.choices[0].delta.content;
    const beside = await refused(() => ask(as('parallel', { maxRetries: 0 })));
    const again = (await ask(as('parallel', { maxRetries: 9 }))).choices[0].message.content;
    for (;;) {
      const { done, value } = await stream.next();
      if (done) return { beside, again, text };
      text += value.choices[0].delta.content ?? '';
    }
  },

  too_large: () => denied('tokens', { messages: [{ role: 'user', content: LONG }] }),

  async budget() {
    const client = as('budget');
    const first = (await ask(client)).choices[0].message.content;
    return {
      first,
      whole: await refused(() => ask(client)),
      streamed: await refused(() => ask(client, { stream: true })),
    };
  },
};

async function main() {
  for (const scenario of names.length ? names : Object.keys(SCENARIOS)) {
    let line;
    try {
      const headers = { authorization: `Bearer ${keyOf('free')}` };
      await fetch(`${baseURL}/models/begin-${who}-${scenario}`, { headers });
      line = { scenario, shown: await SCENARIOS[scenario]() };
    } catch (error) {
      line = { scenario, raised: String(error?.stack ?? error) };
    }
    console.log(JSON.stringify(line));
  }
}

main();
