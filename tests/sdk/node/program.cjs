// A user of the Node SDK: runs scenarios against a gateway and prints what the SDK showed, one JSON line for each.
//
//     NODE_PATH=.venv-node/node_modules node program.cjs BASE_URL KEY [SCENARIO ...]
//
// Nothing is judged: test_node.py says what should have been shown. CommonJS, because modules of the other kind are not
// looked for in NODE_PATH.
'use strict';

const OpenAI = require('openai');
const { zodResponseFormat, zodTextFormat } = require('openai/helpers/zod');
const { VERSION } = require('openai/version');
const { z } = require('zod');

const MODELS = { local: 'qwen2.5:7b', remote: 'deepseek-flash' };
const WEATHER = 'rain and wind';
const CITY = {
  type: 'object',
  properties: { city: { type: 'string' } },
  required: ['city'],
  additionalProperties: false,
};
const FUNCTION = { name: 'get_weather', description: 'The weather in a city', parameters: CITY };
const SAID = z.object({ said: z.string() });

const [baseURL, apiKey, ...names] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });

const user = (content) => [{ role: 'user', content }];

function called(call) {
  return { id: call.id, type: call.type, name: call.function.name, arguments: call.function.arguments };
}

function whole(reply) {
  const { message, finish_reason } = reply.choices[0];
  return {
    object: reply.object,
    model: reply.model,
    role: message.role,
    text: message.content,
    reasoning: message.reasoning_content ?? null,
    calls: (message.tool_calls ?? []).map(called),
    reason: finish_reason,
    tokens: reply.usage?.total_tokens ?? null,
    request_id: reply._request_id,
  };
}

// The exception that a call raises, as a `catch` clause sees it.
async function failure(call) {
  try {
    await call();
  } catch (error) {
    const { status, code, type, param, requestID, message } = error;
    return { class: error.constructor.name, status, code, type, param, requestID, message };
  }
  return { class: null };
}

async function streamed(stream) {
  const seen = { text: '', pieces: 0, roles: [], reasons: [], usages: 0, reasoning: '', ids: new Set() };
  for await (const chunk of stream) {
    seen.ids.add(chunk.id);
    if (chunk.usage) seen.usages += 1;
    for (const { delta, finish_reason } of chunk.choices) {
      if (delta.role) seen.roles.push(delta.role);
      if (delta.content) seen.pieces += 1;
      seen.text += delta.content ?? '';
      seen.reasoning += delta.reasoning_content ?? '';
      if (finish_reason) seen.reasons.push(finish_reason);
    }
  }
  return { ...seen, ids: seen.ids.size };
}

async function response(reply) {
  return {
    object: reply.object,
    status: reply.status,
    text: reply.output_text,
    items: reply.output.map((item) => item.type),
    tokens: reply.usage?.total_tokens ?? null,
  };
}

const ON_EACH = {
  async chat_whole(model) {
    return whole(await client.chat.completions.create({ model, messages: user('hello there') }));
  },

  async chat_streamed(model) {
    const body = { model, messages: user('hello there'), stream: true, stream_options: { include_usage: true } };
    return streamed(await client.chat.completions.create(body));
  },

  // The helper is stricter than the plain stream: it throws where a role, a type or a finish_reason is missing.
  async chat_helper(model) {
    const stream = client.chat.completions.stream({ model, messages: user('hello there') });
    let deltas = 0;
    stream.on('content', () => (deltas += 1));
    return { ...whole(await stream.finalChatCompletion()), deltas };
  },

  async chat_helper_calls(model) {
    const tools = [{ type: 'function', function: FUNCTION }];
    const stream = client.chat.completions.stream({ model, messages: user('look twice at the weather'), tools });
    return whole(await stream.finalChatCompletion());
  },

  async chat_parsed(model) {
    const response_format = zodResponseFormat(SAID, 'said');
    const reply = await client.chat.completions.parse({ model, messages: user('hello there'), response_format });
    return reply.choices[0].message.parsed;
  },

  // Calls the function, sends its result back, and gives the answer.
  async chat_tools(model) {
    const asked = [];
    const weather = ({ city }) => (asked.push(city), WEATHER);
    const tools = [{ type: 'function', function: { ...FUNCTION, function: weather, parse: JSON.parse } }];
    const run = (stream) => {
      const body = { model, messages: user('how is the weather'), tools, stream };
      return client.chat.completions.runTools(body, { maxChatCompletions: 3 }).finalContent();
    };
    return { whole: await run(false), streamed: await run(true), asked };
  },

  async respond(model) {
    return response(await client.responses.create({ model, input: 'hello there' }));
  },

  async respond_streamed(model) {
    const types = [];
    let text = '';
    for await (const event of await client.responses.create({ model, input: 'hello there', stream: true })) {
      if (types.at(-1) !== event.type) types.push(event.type);
      if (event.type === 'response.output_text.delta') text += event.delta;
    }
    return { types, text };
  },

  // Throws where an event of an item comes before the item.
  async respond_helper(model) {
    const stream = client.responses.stream({ model, input: 'hello there' });
    let text = '';
    stream.on('response.output_text.delta', (event) => (text += event.delta));
    return { ...(await response(await stream.finalResponse())), streamed: text };
  },

  async respond_parsed(model) {
    const text = { format: zodTextFormat(SAID, 'said') };
    return (await client.responses.parse({ model, input: 'hello there', text })).output_parsed;
  },

  async respond_tools(model) {
    const tools = [{ type: 'function', ...FUNCTION, strict: true }];
    const input = user('look twice at the weather');
    const first = await client.responses.create({ model, input, tools });
    const calls = first.output.filter((item) => item.type === 'function_call');
    const results = calls.map(({ call_id }) => ({ type: 'function_call_output', call_id, output: WEATHER }));
    const second = await client.responses.create({ model, input: [...input, ...first.output, ...results], tools });
    const by_id = await client.responses.create({ model, input: results, previous_response_id: first.id, tools });
    return { calls: calls.length, second: second.output_text, by_id: by_id.output_text };
  },

  async many_at_once(model) {
    const numbers = Array.from({ length: 20 }, (_, number) => number);
    const ask = (number) => client.chat.completions.create({ model, messages: user(`number ${number}`) });
    return (await Promise.all(numbers.map(ask))).map((reply) => reply.choices[0].message.content);
  },
};

const ON_ONE = {
  async version() {
    return VERSION;
  },

  async models() {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    return { ids, one: await client.models.retrieve('hf.co/acme/tiny:q4') };
  },

  // The SDK asks for base64 and unpacks it.
  async embeddings() {
    const body = { model: 'nomic-embed-text', input: ['hello there', 'rain and wind'] };
    const packed = await client.embeddings.create(body);
    const plain = await client.embeddings.create({ ...body, encoding_format: 'float' });
    return [packed, plain].map((reply) => reply.data.map((row) => row.embedding));
  },

  async completions() {
    const body = { model: MODELS.local, prompt: 'hello there', max_tokens: 50 };
    const reply = await client.completions.create(body);
    let text = '';
    for await (const chunk of await client.completions.create({ ...body, stream: true })) {
      text += chunk.choices.map((choice) => choice.text).join('');
    }
    return { whole: reply.choices[0].text, streamed: text };
  },

  async failures() {
    const ask = (model, more) => client.chat.completions.create({ model, messages: user('hello there'), ...more });
    const stranger = client.withOptions({ apiKey: 'sk-somebody-elses-key' });
    return {
      key: await failure(() => stranger.models.list()),
      model: await failure(() => ask('gpt-nothing')),
      role: await failure(() => ask(MODELS.local, { messages: [{ role: 'robot', content: 'hello' }] })),
      busy: await failure(() => ask('busy')),
      broken: await failure(() => ask('broken', { stream: true })),
      url: await failure(() => client.post('/nothing', { body: {} })),
    };
  },

  async cut_in_the_middle() {
    let text = '';
    const read = async () => {
      const body = { model: 'cut-local', messages: user('hello there'), stream: true };
      for await (const chunk of await client.chat.completions.create(body)) text += chunk.choices[0].delta.content ?? '';
    };
    const error = await failure(read);
    return { text, error };
  },

  async continued() {
    return whole(await client.chat.completions.stream({ model: 'mended', messages: user('hello there') }).finalChatCompletion());
  },

  // Leaving a stream early must not disturb what comes after it.
  async left_early() {
    const stream = await client.chat.completions.create({ model: 'slow', messages: user('hello there'), stream: true });
    for await (const chunk of stream) if (chunk.choices[0].delta.content) break;
    return whole(await client.chat.completions.create({ model: MODELS.local, messages: user('hello there') }));
  },
};

async function main() {
  const scenarios = { ...ON_ONE };
  for (const [name, each] of Object.entries(ON_EACH)) {
    for (const [place, model] of Object.entries(MODELS)) scenarios[`${name} ${place}`] = () => each(model);
  }
  for (const scenario of names.length ? names : Object.keys(scenarios)) {
    let line;
    try {
      line = { scenario, shown: await scenarios[scenario]() };
    } catch (error) {
      line = { scenario, raised: String(error?.stack ?? error) };
    }
    console.log(JSON.stringify(line));
  }
}

main();
