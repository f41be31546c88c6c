// A durable function by the public SDK for Node.js, unchanged.
const { randomUUID } = require('crypto');
const { withDurableExecution } = require('@aws/durable-execution-sdk-js');

const fresh = (what) => async () => `${what}-${randomUUID()}`;
const again = { retryStrategy: (error, attempt) => ({ shouldRetry: attempt < 4, delay: { seconds: 1 } }) };

// Each step that is retried fails once in a process.
let attempts = 0;

exports.handler = withDurableExecution(async (event, context) => {
  const first = await context.step('first', fresh('first'));
  if (event.do === 'fail') {
    throw new Error('as you wish');
  }
  const retried = await context.step('retried', async () => {
    attempts += 1;
    if (attempts % 2 === 1) throw new Error(`attempt ${attempts} fails`);
    return attempts;
  }, again);
  await context.wait('pause', { seconds: 1 });
  const chapter = await context.runInChildContext('chapter', async (inner) => {
    const before = await inner.step('before', fresh('before'));
    await inner.wait('inside', { seconds: 1 });
    return [before, await inner.step('after', fresh('after'))];
  });
  const squares = await context.map('squares', [1, 2, 3], async (inner, item) =>
    inner.step(`square-${item}`, async () => item * item));
  const both = await context.parallel('both', [
    async (inner) => inner.step('left', async () => 'left'),
    async (inner) => inner.step('right', async () => 'right'),
  ]);
  const result = { first, retried, chapter, squares: squares.getResults(), both: both.getResults() };
  if (event.callback) {
    const [approval] = await context.createCallback('approval');
    result.approval = await approval;
  }
  return result;
});
