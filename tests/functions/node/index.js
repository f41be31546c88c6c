// A function whose event says what it should do.
class Refused extends Error {
  constructor(message) {
    super(message);
    this.name = "Refused";
  }
}

exports.handler = async (event, context) => {
  if (event && event.do === "fail") throw new Refused("as you wish");
  if (event && event.do === "exit") process.exit(3);
  console.log("echoing");
  return { echo: event, version: context.functionVersion, id: context.awsRequestId };
};
