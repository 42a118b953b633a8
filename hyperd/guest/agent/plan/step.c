#include "plan/step.h"

#include <string.h>

int step_failed(const struct step *step, int code, struct err *e) {
  const char *a = step->count > 0 ? step->args[0].text : "";
  if (strcmp(step->name, "MOUNT") == 0)
    return err_reason(e, code, "MOUNT %.150s on %.150s", a, step->args[1].text);
  return err_reason(e, code, "%s %.300s", step->name, a);
}
