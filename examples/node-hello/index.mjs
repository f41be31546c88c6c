// Greets by name and counts: the process stays warm between invocations.

let served = 0;

export const handler = async ({ name = 'world' }) => {
  served += 1;
  return { message: `hello, ${name}`, served };
};
